"""Converts a run's flags to what OpenRLHF's own code needs."""

import argparse
import json

from openrlhf_sfpo.checkpoints.directory import Checkpoint
from openrlhf_sfpo.config.stored_settings import portable
from openrlhf_sfpo.orchestration.backend_flags import for_deepspeed_on_cpu, for_megatron
from openrlhf_sfpo.runs import run_data


def for_openrlhf(flat: argparse.Namespace, checkpoint: Checkpoint | None = None) -> argparse.Namespace:
    """The flags for OpenRLHF's own code. With a checkpoint, OpenRLHF loads the state that the actors return from it.

    For Megatron, OpenRLHF sends one chunk of data to `ds.tensor_parallel_size` neighboring ranks: the ranks that hold
    one copy of the model. Its own packing and balancing stay off, because the actor does both.
    """
    values = dict(vars(flat))
    values.pop("config", None)
    values["run.settings"] = json.dumps(portable(values))  # stored in checkpoints
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
        # Without a URL OpenRLHF would wait for GPUs for a reward model; the recording contains the rewards.
        values["reward.remote_url"] = values["reward.remote_url"] or "replayed"
    return argparse.Namespace(**values)
