"""What rank processes run to measure how many bytes a real actor holds."""

import gc
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from jobs import make_actor, my_share
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of tensors that were created since `begin` and are alive, and their peak.

    Tensors created before `begin` count neither while they are alive nor when they are freed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._span = 0
        self._known: dict[int, Any] = {}

    def begin(self) -> None:
        """Start counting from zero."""
        gc.collect()
        self._span += 1
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size, span = storage.nbytes(), self._span
        self._known[key] = weakref.ref(storage, lambda _: self._remove(key, size, span))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _remove(self, key: int, size: int, span: int) -> None:
        del self._known[key]
        if span == self._span:
            self.now -= size


class SavedTensors:
    """Counts the bytes that autograd has saved for coming backward passes, and their peak.

    A storage counts once however many of its tensors are saved; storages of parameters do not count.
    """

    def __init__(self, parameters: set[int]) -> None:
        self.now = self.peak = 0
        self._parameters = parameters
        self._holders: dict[int, int] = {}

    def watching(self) -> Any:
        return torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Saved(self, tensor), lambda held: held.tensor)

    def add(self, storage: torch.UntypedStorage, count: int) -> None:
        key = storage.data_ptr()
        if key in self._parameters:
            return
        before = self._holders.get(key, 0)
        self._holders[key] = before + count
        if (before == 0) != (before + count == 0):
            self.now += storage.nbytes() * (1 if count > 0 else -1)
            self.peak = max(self.peak, self.now)


class _Saved:
    def __init__(self, owner: SavedTensors, tensor: torch.Tensor) -> None:
        self.owner, self.tensor = owner, tensor
        owner.add(tensor.untyped_storage(), 1)

    def __del__(self) -> None:
        self.owner.add(self.tensor.untyped_storage(), -1)


def measure(
    path: str, layout: tuple[int, ...], samples: list[Any], state: Any, settings: dict[str, Any]
) -> dict[str, int]:
    """Bytes on this rank: each kind of state, the most that a train batch saves for its backward pass, and the peak of
    everything except the state in a train batch, in scoring, and in gathering the weights."""
    from megatron.core import parallel_state

    from openrlhf_sfpo.megatron.cpu import device_scope
    from openrlhf_sfpo.megatron.data.rollout_batch import RolloutBatch
    from openrlhf_sfpo.megatron.train.loss import PPOClipLoss
    from openrlhf_sfpo.sfpo import SlowCopy

    with LiveTensors() as live:
        actor = make_actor(path, layout, **settings)
        mine = my_share(samples)
        for sample in mine:
            sample.old_log_probs = torch.zeros(len(sample.tokens) - 1)
        batch = RolloutBatch(actor.layout, actor.settings, mine)
        step = _gradients(actor, batch, PPOClipLoss())
        step()
        with device_scope():
            actor.optimizer.step()
        found = _state(actor)
        copy = SlowCopy(actor.shards, state)
        copy.take()
        found["snapshot"] = _bytes([*(copy._slow or []), *(v for s in copy._state for v in s.values())])
        copy.release()
        del copy
        saved = SavedTensors({buffer.param_data.untyped_storage().data_ptr() for buffer in _buffers(actor)})
        with saved.watching():
            found["training"] = _least_peak(live, step)
        found["saved"] = saved.peak
        found["scoring"] = _least_peak(live, lambda: actor.forward(mine))
        found["sending"] = _least_peak(live, lambda: sum(1 for _ in actor.export()))
    found["stage"] = parallel_state.get_pipeline_model_parallel_rank()
    found["tp_rank"] = parallel_state.get_tensor_model_parallel_rank()
    found["dp_rank"] = parallel_state.get_data_parallel_rank()
    found["micro_batches"] = len(batch.micro_batches(0)[0])
    return found


def _least_peak(live: LiveTensors, run: Callable[[], Any]) -> int:
    """The peak bytes of what `run` creates and frees; with several ranks, the minimum over three runs.

    gloo keeps the last tensors sent and received until the next ones, during `run` and after it; and its thread
    releases the others a moment after it has reported the end of a transfer. On a busy machine they may still be alive
    when the next ones are created, which can only raise a peak.
    """
    if torch.distributed.get_world_size() == 1:
        return _peak(live, run)
    return min(_peak(live, run) for _ in range(3))


def _peak(live: LiveTensors, run: Callable[[], Any]) -> int:
    live.begin()
    run()
    left = live.now
    for _ in range(10):  # long enough for gloo's thread to run on any machine
        time.sleep(0.02)
        gc.collect()
        left = min(left, live.now)
    return live.peak - left


def _gradients(actor: Any, batch: Any, loss: Any) -> Callable[[], None]:
    from openrlhf_sfpo.megatron.cpu import device_scope

    _, batches = batch.micro_batches(0)
    norm = batch.norm(0)

    def step() -> None:
        with device_scope():
            actor.compute_gradients(batches, loss, norm)

    return step


def _buffers(actor: Any) -> list[Any]:
    return [buffer for chunk in actor._chunks for buffer in chunk.buffers]


def _state(actor: Any) -> dict[str, int]:
    parameters = [buffer.param_data for buffer in _buffers(actor)]
    held = {tensor.untyped_storage().data_ptr() for tensor in parameters}
    shards = list(actor.shards.shards())
    mains = [shard.weight for shard in shards if shard.weight.untyped_storage().data_ptr() not in held]
    moments = [value for shard in shards for name, value in shard.state.items() if name.startswith("exp_avg")]
    return {
        "parameters": _bytes(parameters),
        "gradients": _bytes([buffer.grad_data for buffer in _buffers(actor)]),
        "main_parameters": _bytes(mains),
        "moments": _bytes(moments),
    }


def _bytes(tensors: list[Any]) -> int:
    """The bytes of the tensors' storages, each counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}
    return sum(storages.values())
