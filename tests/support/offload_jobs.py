"""What the ranks of the offload tests run."""

from pathlib import Path
from typing import Any

import checkpoint_jobs
import jobs
import torch

Samples = list[Any]


def train(
    path: str, layout: tuple[int, int, int], samples: Samples, offloads: bool, **settings: Any
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Three SFPO updates. With `offloads`, everything that may be is in host memory in between; the second update finds
    it reloaded, the others reload it themselves. Returns the metrics, and the weights exported from host memory."""
    actor, update = checkpoint_jobs.start(path, layout, **settings)
    metrics = []
    for number in range(3):
        if offloads:
            actor.offload_states()
            if number == 1:
                actor.reload_states()
        metrics.append(jobs.on_policy_step(actor, samples, update))
    if offloads:
        assert_away(actor, settings["offload_parameters"])
    weights = jobs.weights_of(actor)
    if offloads:
        assert_away(actor, settings["offload_parameters"])
        actor.reload_states()
    jobs.assert_copies_agree(actor)
    return metrics, weights


def there_and_back(path: str, layout: tuple[int, int, int], samples: Samples, **settings: Any) -> None:
    """Offloading and reloading must keep all bits; what is saved and computed in between must be the same."""
    actor, update = checkpoint_jobs.start(path, layout, **settings)
    jobs.on_policy_step(actor, samples, update)
    mine = jobs.my_share(samples)
    before, held, saved = bits(actor), live_bytes(actor), stored(actor)
    log_probs, weights = actor.forward(mine), jobs.weights_of(actor)
    assert min(held.values()) > 0, held
    for _ in range(2):
        actor.offload_states()
        assert_away(actor, settings["offload_parameters"])
        for now, then in zip(actor.forward(mine), log_probs, strict=True):
            assert torch.equal(now, then)
        assert_equal(stored(actor), saved)
        assert_equal(jobs.weights_of(actor), weights)
        assert_away(actor, settings["offload_parameters"])
        actor.reload_states()
        assert live_bytes(actor) == held
        assert_equal(bits(actor), before)


def save_from_host_memory(
    path: str, layout: tuple[int, int, int], samples: Samples, target: str, **settings: Any
) -> dict[str, torch.Tensor]:
    """Save a checkpoint of an actor whose state is in host memory; return the state."""
    from openrlhf_sfpo.megatron.state.writer import CheckpointWriter

    actor, update = checkpoint_jobs.start(path, layout, **settings)
    jobs.on_policy_step(actor, samples, update)
    held = checkpoint_jobs.whole_state(actor)
    actor.offload_states()
    common = {"sfpo": update.state_dict()}
    CheckpointWriter().save(Path(target), lambda: actor.contents(1, common, {"metric_value": None}), wait=True)
    assert_away(actor, settings["offload_parameters"])
    return held


def resume_into_host_memory(
    path: str, layout: tuple[int, int, int], checkpoint: str, **settings: Any
) -> dict[str, torch.Tensor]:
    """Load a checkpoint into an actor whose state is in host memory; return the state."""
    actor, _ = checkpoint_jobs.start(path, layout, **settings)
    actor.offload_states()
    actor.restore(Path(checkpoint))
    assert_away(actor, settings["offload_parameters"])
    actor.reload_states()
    return checkpoint_jobs.whole_state(actor)


def in_the_middle(path: str, samples: Samples) -> str:
    """The error message of an offload in the middle of an update."""
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss

    actor, update = checkpoint_jobs.start(path, (1, 1, 1))

    class Offloads(PPOClipLoss):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            actor.offload_states()
            return super().__call__(*args, **kwargs)

    for sample, log_probs in zip(samples, actor.forward(samples), strict=True):
        sample.old_log_probs = log_probs
    try:
        actor.update(samples, Offloads(), update)
    except RuntimeError as error:
        return str(error)
    return "nothing"


def resident_memory(path: str, samples: Samples) -> tuple[int, int, int]:
    """Resident bytes of this process with the state on the device and in host memory; bytes of the gradients."""
    import psutil

    actor, update = checkpoint_jobs.start(path, (1, 1, 1), max_tokens_per_gpu=512)
    jobs.on_policy_step(actor, samples, update)
    torch.cuda.empty_cache()  # frees activations
    gradients = live_bytes(actor)["gradients"]
    before = psutil.Process().memory_info().rss
    actor.offload_states()
    return before, psutil.Process().memory_info().rss, gradients


def reference(path: str, layout: tuple[int, int, int], samples: Samples) -> list[torch.Tensor]:
    """Log-probabilities of a frozen model kept in host memory; they must be the same as with it on the device."""
    actor = jobs.make_actor(path, layout, train=False, offload_parameters=True)
    mine = jobs.my_share(samples)
    expected = actor.forward(mine)
    parameters = [parameter for chunk in actor._chunks for parameter in chunk.parameters()]
    held = storage_bytes(parameters)
    assert held > 0
    during: list[int] = []
    scored = actor._log_probs_of

    def watched(batch: Any) -> Any:
        during.append(storage_bytes(parameters))
        return scored(batch)

    actor._log_probs_of = watched
    actor.offload_states()
    for _ in range(2):
        assert storage_bytes(parameters) == 0
        for now, then in zip(actor.forward(mine), expected, strict=True):
            assert torch.equal(now, then)
    assert storage_bytes(parameters) == 0
    assert during == [held, held]
    return expected


def everyone_gets_all(path: str, layout: tuple[int, int, int], **settings: Any) -> dict[str, torch.Tensor]:
    """The weights that this rank gets when all ranks do; rank 0 must get the same as otherwise."""
    actor = jobs.make_actor(path, layout, weight_bucket_bytes=20_000, **settings)
    alone = jobs.weights_of(actor)
    actor.offload_states()
    found = {name: tensor.clone() for name, tensor in actor.export(everyone=True)}
    if alone:
        assert list(found) == list(alone)
        assert_equal(found, alone)
    return found


def assert_equal(now: dict[str, torch.Tensor], then: dict[str, torch.Tensor]) -> None:
    assert now.keys() == then.keys()
    for name, tensor in then.items():
        assert torch.equal(now[name], tensor), name


def assert_away(actor: Any, parameters: bool) -> None:
    live = live_bytes(actor)
    assert (live["gradients"], live["moments"]) == (0, 0), live
    assert (live["parameters"] == 0) == parameters, live
    # Shards of fp32 parameters are views of them.
    assert (live["main"] == 0) == (parameters or actor.settings.param_dtype == torch.bfloat16), live


def live_bytes(actor: Any) -> dict[str, int]:
    """The bytes in the storages of the actor's tensors."""
    buffers = [buffer for chunk in actor._chunks for buffer in chunk.buffers]
    shards = list(actor.shards.shards())
    return {
        "parameters": storage_bytes([buffer.param_data for buffer in buffers]),
        "gradients": storage_bytes([buffer.grad_data for buffer in buffers]),
        "main": storage_bytes([shard.weight for shard in shards]),
        "moments": storage_bytes([shard.state[name] for shard in shards for name in ("exp_avg", "exp_avg_sq")]),
    }


def storage_bytes(tensors: list[torch.Tensor]) -> int:
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def bits(actor: Any) -> dict[str, torch.Tensor]:
    """Copies of this rank's parameters, fp32 shards and Adam's state."""
    found = {f"{name}{i}": value for name, values in jobs.owned_state(actor).items() for i, value in enumerate(values)}
    for index, chunk in enumerate(actor._chunks):
        for name, parameter in chunk.named_parameters():
            found[f"{index}/{name}"] = parameter.detach().clone()
    return found


def stored(actor: Any) -> dict[str, torch.Tensor]:
    """What this rank would write into a checkpoint."""
    return {
        f"{key}/{number}": shard._sh_ten.data
        for key, container in actor.contents(1, {}, {}).tensors.items()
        for number, shard in enumerate(container._local_shards)
    }


def memory_handles(path: str, bucket_bytes: int) -> tuple[int, bool, list[str], int]:
    """Of a transfer between processes on the same GPUs: its buffer's bytes, whether it is packed, what this rank packs,
    and the bytes of the largest tensor in it."""
    from openrlhf_sfpo.rollout.weight_sync import _init_info, _weight_source, backend_for

    actor = jobs.make_actor(path, (1, 2, 1), weight_bucket_bytes=bucket_bytes)
    backend = backend_for("cuda", shared_gpus=True)
    source = _weight_source(actor, everyone=backend == "ipc")
    info = _init_info(backend, source, engine_workers=2, master_address="127.0.0.1")
    assert type(info).__name__ == "IPCTrainerInitInfo"
    assert info.is_sender == (torch.distributed.get_rank() == 0)
    packed = dict(source)
    assert [meta.name for meta in source.metadata()] == list(packed), "vLLM takes them in this order"
    largest = max(tensor.numel() * tensor.element_size() for tensor in packed.values())
    return info.packed_buffer_size_bytes, info.packed, list(packed), largest
