"""A run's flags as OpenRLHF's own code must see them."""

import argparse
import json

from openrlhf_sfpo.checkpoints.directory import Checkpoint
from openrlhf_sfpo.config.stored_settings import portable
from openrlhf_sfpo.orchestration.backend_flags import for_deepspeed_on_cpu, for_megatron
from openrlhf_sfpo.runs import run_data


def for_openrlhf(flat: argparse.Namespace, checkpoint: Checkpoint | None = None) -> argparse.Namespace:
    """The flags as OpenRLHF's own code must see them. With a checkpoint, it loads what the actors say is in there.

    For Megatron, it sends one chunk of data to `ds.tensor_parallel_size` neighboring ranks: the ranks that hold one
    copy of the model. Its own packing and balancing stay off, because the actor packs and balances for itself.
    """
    values = dict(vars(flat))
    values.pop("config", None)
    values["run.settings"] = json.dumps(portable(values))  # what a checkpoint says of the run that wrote it
    run_data.for_openrlhf(values)
    values["ckpt.resume_from"] = str(checkpoint.path) if checkpoint else None
    if values["actor.backend"] == "megatron":
        values["ckpt.load_enable"] = checkpoint is not None
    if values["actor.backend"] == "megatron":
        for_megatron(values)
    elif values["megatron.device"] == "cpu":
        for_deepspeed_on_cpu(values)
    if values["rollout.replay_dir"]:
        values["vllm.num_engines"] = 0
        # Without a URL OpenRLHF would wait for the GPUs of a reward model; the rewards are in the recording.
        values["reward.remote_url"] = values["reward.remote_url"] or "replayed"
    return argparse.Namespace(**values)
