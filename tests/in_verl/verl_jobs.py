"""What the rank processes run with verl's worker; module level, so that they can be sent by name."""

import functools
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

LR, MICRO_BATCH, MINI_BATCH = 5e-5, 2, 4


def prepare() -> None:
    """Load verl as its workers do."""
    os.environ["VERL_USE_EXTERNAL_MODULES"] = "openrlhf_sfpo.verl"
    import cpu_platform
    import verl

    cpu_platform.install()
    import verl.workers.engine_workers  # noqa: F401


def make_worker(model: str, kind: str, schedule: str = "constant") -> Any:
    """verl's TrainingWorker with its FSDP engine, on this rank."""
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import (
        ActorConfig,
        FSDPEngineConfig,
        FSDPOptimizerConfig,
        HFModelConfig,
        TrainingWorkerConfig,
    )
    from verl.workers.engine_workers import TrainingWorker
    from verl.workers.utils.losses import ppo_loss

    os.environ.setdefault("LOCAL_RANK", os.environ["RANK"])
    os.environ.setdefault("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])
    if not dist.is_initialized():
        dist.init_process_group("gloo")  # verl itself would add it twice, once for the CPU and once for the device
    fp32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    worker = TrainingWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=HFModelConfig(
                path=model, use_remove_padding=False, override_config={"attn_implementation": "sdpa"}
            ),
            engine_config=FSDPEngineConfig(
                strategy=kind,
                use_torch_compile=False,
                mixed_precision=fp32,
                dtype="float32",
                use_dynamic_bsz=False,
                micro_batch_size_per_gpu=MICRO_BATCH,
                max_token_len_per_gpu=64,
            ),
            optimizer_config=FSDPOptimizerConfig(
                lr=LR,
                weight_decay=0.0,
                betas=(0.9, 0.95),
                clip_grad=1.0,
                total_training_steps=10,
                lr_scheduler_type=schedule,
            ),
            checkpoint_config=CheckpointConfig(),
        )
    )
    worker.reset()
    config = ActorConfig(
        strategy=kind,
        ppo_mini_batch_size=MINI_BATCH,
        ppo_micro_batch_size_per_gpu=MICRO_BATCH,
        rollout_n=1,
        calculate_entropy=True,
        use_dynamic_bsz=False,
    )
    worker.set_loss_fn(functools.partial(ppo_loss, config=config))
    return worker


def as_data(samples: list[Any]) -> Any:
    """This rank's share of the samples, as verl's trainer sends it."""
    import verl
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu
    from verl.workers.utils.padding import left_right_2_no_padding

    rank, world = dist.get_rank(), dist.get_world_size()
    parts = [samples[start : start + MINI_BATCH] for start in range(0, len(samples), MINI_BATCH)]
    share = MINI_BATCH // world
    own = [sample for part in parts for sample in part[rank * share : (rank + 1) * share]]
    length = [int(sample.action_mask.sum()) for sample in own]
    prompt = max(len(sample.tokens) - n for sample, n in zip(own, length, strict=True))
    response = max(length)
    rows: dict[str, list[torch.Tensor]] = {
        name: [] for name in ("input_ids", "attention_mask", "response_mask", "old_log_probs", "advantages")
    }
    for sample, n in zip(own, length, strict=True):
        before, after = prompt - (len(sample.tokens) - n), response - n
        rows["input_ids"].append(torch.nn.functional.pad(sample.tokens, (before, after)))
        rows["attention_mask"].append(
            torch.nn.functional.pad(torch.ones(len(sample.tokens), dtype=torch.long), (before, after))
        )
        rows["response_mask"].append(torch.nn.functional.pad(torch.ones(n, dtype=torch.long), (0, after)))
        rows["old_log_probs"].append(torch.nn.functional.pad(sample.old_log_probs[-n:], (0, after)))
        rows["advantages"].append(torch.nn.functional.pad(sample.advantages[-n:], (0, after)))
    tensors = {name: torch.stack(values) for name, values in rows.items()}
    tensors["position_ids"] = (tensors["attention_mask"].cumsum(1) - 1).clamp(min=0)
    tensors["prompts"], tensors["responses"] = tensors["input_ids"][:, :prompt], tensors["input_ids"][:, prompt:]
    data = left_right_2_no_padding(TensorDict(tensors, batch_size=[len(own)]))
    if verl.__version__.startswith("0.7."):
        # Without flash-attn it takes the attention mask from this one, and needs the whole sequences' lengths in it.
        masks = [torch.nn.functional.pad(sample.action_mask.long(), (1, 0)) for sample in own]
        data["loss_mask"] = torch.nested.as_nested_tensor(masks, layout=torch.jagged)
    return tu.assign_non_tensor(
        data,
        calculate_entropy=True,
        global_batch_size=MINI_BATCH,
        mini_batch_size=MINI_BATCH,
        epochs=1,
        seed=1,
        dataloader_kwargs={"shuffle": False},
        compute_loss=True,
        temperature=1.0,
    )


def with_sfpo(worker: Any, settings: dict[str, Any]) -> Any:
    from openrlhf_sfpo.verl.passes import train_with_sfpo
    from openrlhf_sfpo.verl.settings import settings_of

    config = {"sfpo": settings, "actor": {"calculate_entropy": True}, "model": {}}
    found = settings_of(config)
    assert found is not None
    train_with_sfpo(worker, found, config)
    return worker


def updated(
    model: str,
    samples: list[Any],
    settings: dict[str, Any] | None,
    kind: str,
    batches: int = 2,
    schedule: str = "constant",
) -> dict[str, Any]:
    """Updates on the same samples: metrics of each, and the weights afterwards, by Hugging Face name."""
    worker = make_worker(model, kind, schedule)
    if settings is not None:
        with_sfpo(worker, settings)
    metrics = [step(worker, samples) for _ in range(batches)]
    return {"metrics": metrics, "weights": weights_of(worker)}


def step(worker: Any, samples: list[Any]) -> dict[str, Any]:
    from verl.utils import tensordict_utils as tu

    output = worker.train_mini_batch(data=as_data(samples))
    metrics = tu.get(output, "metrics")
    return {
        name: [float(one) for one in value] if isinstance(value, list) else value for name, value in metrics.items()
    }


def weights_of(worker: Any) -> dict[str, torch.Tensor]:
    found = {}
    module = worker.engine.module
    if type(module).__name__ == "FullyShardedDataParallel":
        from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

        with FSDP.summon_full_params(module):
            return {
                name.replace("_fsdp_wrapped_module.", ""): value.detach().clone()
                for name, value in module.named_parameters()
            }
    for name, parameter in module.named_parameters():
        found[name] = (
            parameter.full_tensor().detach().clone() if hasattr(parameter, "full_tensor") else parameter.detach()
        )
    return found


def saved_and_continued(model: str, samples: list[Any], settings: dict[str, Any], path: str) -> dict[str, Any]:
    """Three updates; and one, a checkpoint, a new worker that loads it, and two more."""
    whole = with_sfpo(make_worker(model, "fsdp2"), settings)
    undisturbed = [step(whole, samples) for _ in range(3)]
    first = with_sfpo(make_worker(model, "fsdp2"), settings)
    step(first, samples)
    first.save_checkpoint(path, global_step=1)
    files = sorted(file.name for file in Path(path).iterdir())
    second = with_sfpo(make_worker(model, "fsdp2"), settings)
    second.load_checkpoint(path)
    continued = [step(second, samples) for _ in range(2)]
    return {
        "files": files,
        "undisturbed": undisturbed[1:],
        "continued": continued,
        "same": all(
            torch.equal(a, b) for a, b in zip(weights_of(whole).values(), weights_of(second).values(), strict=True)
        ),
    }
