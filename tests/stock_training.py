"""Two updates with OpenRLHF's own actor trainer on one CPU rank; print a digest of the weights."""

import hashlib
import os
import socket
import tempfile
from pathlib import Path

from openrlhf_sfpo.orchestration import flash_attn_stub

flash_attn_stub.install_if_missing()

import deepspeed_jobs as ds  # noqa: E402
import torch  # noqa: E402
from openrlhf.trainer.ray import ppo_actor  # noqa: E402
from openrlhf.utils import get_strategy  # noqa: E402
from test_deepspeed import with_tokenizer  # noqa: E402
from test_megatron_training import with_old_log_probs  # noqa: E402
from tiny_models import make_model, make_samples  # noqa: E402

from openrlhf_sfpo.deepspeed import cpu  # noqa: E402
from openrlhf_sfpo.orchestration.undecorated import undecorated  # noqa: E402

with socket.socket() as free, tempfile.TemporaryDirectory() as directory:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
    free.close()
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    path = with_tokenizer(make_model(Path(directory) / "model", "qwen2"))
    samples = with_old_log_probs(path, make_samples(12))
    cpu.install(1)
    args = ds.arguments(1, sfpo__enable=False, train__batch_size=4, train__micro_batch_size=2, rollout__batch_size=12)
    policy_class = undecorated(ppo_actor.PolicyModelActor)
    actor = policy_class.__new__(policy_class)
    actor._rank, actor._world_size = 0, 1
    actor.init_model_from_pretrained(get_strategy(args), path, max_steps=100, vllm_engines=None)
    for _ in range(2):
        ds.update(actor, samples, in_order=False)
    digest = hashlib.sha256()
    for name, parameter in actor.actor.model.module.named_parameters():
        digest.update(name.encode() + parameter.detach().view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
