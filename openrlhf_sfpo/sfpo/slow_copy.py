"""theta_slow: the copy of the weights before the fast passes, and the move back towards it."""

import math
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch

from openrlhf_sfpo.sfpo.weights import OwnedWeights, Shard

OptimizerStateMode = Literal["maintain", "restore", "interpolate", "reset"]
# Elements processed at a time, by device: both chunks and their difference should stay in the last-level cache during
# the four operations on them (2 MiB each on a CPU, where smaller chunks cost more in calls than they save; 16 MiB on a
# GPU).
_CHUNK = {"cpu": 1 << 19, "cuda": 1 << 22}


@dataclass(frozen=True)
class Displacement:
    """Measurements of a reposition, over all ranks.

    Attributes:
        norm: ||theta_fast - theta_slow||_2, before the move.
        slow_norm: ||theta_slow||_2.
        seconds: wall-clock time of the reposition on the slowest rank.
    """

    norm: float
    slow_norm: float
    seconds: float

    @property
    def relative(self) -> float:
        return self.norm / self.slow_norm if self.slow_norm > 0 else math.nan


@dataclass
class SquaredNorms:
    """Accumulates the squared L2 norms of a `Displacement`, chunk by chunk: within one chunk a sum of squares is exact
    enough in fp32, over all chunks it is not."""

    moved: list[torch.Tensor] = field(default_factory=list)
    slow: list[torch.Tensor] = field(default_factory=list)
    _scratch: torch.Tensor | None = None

    def add(self, fast: Annotated[torch.Tensor, "float n"], slow: Annotated[torch.Tensor, "float n"]) -> None:
        """Add a chunk; both tensors are flat, and no longer than a chunk."""
        if self._scratch is None or len(self._scratch) < len(fast):
            self._scratch = torch.empty_like(fast)
        difference = torch.sub(fast, slow, out=self._scratch[: len(fast)])
        self.moved.append(torch.dot(difference, difference))
        self.slow.append(torch.dot(slow, slow))

    def totals(self) -> list[float]:
        """||fast - slow||^2 and ||slow||^2 over all chunks."""
        return [torch.stack(parts).double().sum().item() if parts else 0.0 for parts in (self.moved, self.slow)]


def reposition_(
    fast: Annotated[torch.Tensor, "float *shape"],
    slow: Annotated[torch.Tensor, "float *shape"],
    alpha: float,
    norms: SquaredNorms | None = None,
) -> None:
    """fast <- slow + alpha * (fast - slow), in place.

    alpha = 1 leaves `fast` unchanged and alpha = 0 gives `slow` bit for bit (a property of `lerp`).

    Args:
        fast: fp32 weights after the fast passes, any shape, contiguous; overwritten.
        slow: fp32 weights before them, same shape, on the same device or in host memory.
        alpha: step size in [0, 1].
        norms: receives the norms of (fast - slow), before the move, and of slow.
    """
    for fast_part, slow_part in _chunks(fast, slow):
        if norms is not None:
            norms.add(fast_part, slow_part)
        fast_part.lerp_(slow_part, 1.0 - alpha)


def ranges(start: int, stop: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """A range of a flat tensor in chunks that fit the device's cache, as (start, stop)."""
    size = _CHUNK["cpu" if device.type == "cpu" else "cuda"]
    for first in range(start, stop, size):
        yield first, min(first + size, stop)


def _chunks(fast: torch.Tensor, slow: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Both tensors in flat chunks that fit the cache; those of `slow` on the device of `fast`."""
    fast, slow = fast.view(-1), slow.view(-1)
    for start, stop in ranges(0, fast.numel(), fast.device):
        yield fast[start:stop], slow[start:stop].to(fast.device, non_blocking=True)


class SlowCopy:
    """Holds theta_slow during the fast passes, and the optimizer's state before them if the mode needs it.

    The reposition's effect on the optimizer's state S (Adam: first and second moment m and v, step count t), with
    S_slow from before the fast passes and S_fast from after them; P is the size of the shard in bytes:

    | mode          | state after the reposition                                        | extra memory |
    | `maintain`    | S_fast: nothing is touched (the authors' code)                    | P            |
    | `restore`     | S_slow, step count included                                       | P + state    |
    | `interpolate` | m_slow + alpha (m_fast - m_slow), v likewise; t stays t_fast      | P + state    |
    | `reset`       | as before the first step: m = v = 0, t = 0                        | P            |

    State that did not exist before the fast passes counts as zero in `interpolate` and is reset by `restore`. For Adam
    P + state is 3 P and one fp32 number for each tensor.

    Args:
        weights: the weights to move.
        optimizer_state: one of the modes above.
        device: the copies' device: `same` as the weights, or `cpu` for host memory (pinned if the weights are on a GPU,
            and kept for the next batch until `free_host_memory`; torch rounds each tensor up to a power of two).

    Raises:
        ValueError: an unknown mode or device.
    """

    def __init__(
        self,
        weights: OwnedWeights,
        optimizer_state: OptimizerStateMode = "maintain",
        device: Literal["same", "cpu"] = "same",
    ) -> None:
        if optimizer_state not in ("maintain", "restore", "interpolate", "reset"):
            raise ValueError(
                f"optimizer_state must be maintain, restore, interpolate or reset, got {optimizer_state!r}"
            )
        if device not in ("same", "cpu"):
            raise ValueError(f"device must be same or cpu, got {device!r}")
        self._weights = weights
        self._mode = optimizer_state
        self._offload = device == "cpu"
        self._host: dict[Hashable, torch.Tensor] = {}
        self._copied: torch.cuda.Event | None = None
        self._slow: list[torch.Tensor] | None = None
        self._state: list[dict[str, Any]] = []
        self._group_steps: list[Any] = []

    @torch.no_grad()
    def take(self, overlap: bool = False, with_state: bool = True) -> int:
        """Copy the weights, and the optimizer's state if the mode needs it.

        Args:
            with_state: False if no reposition follows.
            overlap: let copies from a GPU to host memory overlap with later computations. The caller must then call
                `wait` before the weights change.

        Returns:
            The size of all copies in bytes, on the rank with the largest.
        """
        assert self._slow is None, "a snapshot is already held"
        shards = list(self._weights.shards())
        with self._side_stream():
            self._slow = [self._copy(index, shard.weight) for index, shard in enumerate(shards)]
            if with_state and self._mode in ("restore", "interpolate"):
                self._state = [
                    {name: self._copy((index, name), value) for name, value in shard.inner_state.items()}
                    for index, shard in enumerate(shards)
                ]
                self._group_steps = [
                    self._copy(("step", index), group.get("step")) for index, group in enumerate(self._groups())
                ]
        if not overlap:
            self.wait()
        return int(self._weights.reduce([self.bytes], "max")[0])

    def wait(self) -> None:
        """Make the GPU wait for copies to host memory before it changes anything."""
        if self._copied is not None:
            torch.cuda.current_stream(self._device()).wait_event(self._copied)
            self._copied = None

    @torch.no_grad()
    def reposition(self, alpha: float, refresh: bool = True, measure: bool = True) -> Displacement:
        """weights <- slow + alpha * (weights - slow) in place, and the optimizer's state according to the mode.

        Args:
            alpha: step size in [0, 1].
            refresh: update what the forward pass reads; unnecessary if an optimizer step follows at once.
            measure: compute the norms, a third of the work on a CPU. If False, they are NaN.
        """
        assert self._slow is not None, "reposition needs a snapshot"
        assert self._copied is None, "wait was not called before the weights changed"
        self._synchronize()
        started = time.perf_counter()
        norms = SquaredNorms()
        for index, shard in enumerate(self._weights.shards()):
            counted = norms if measure and shard.counted else None
            reposition_(shard.weight.detach(), self._slow[index], alpha, counted)
            self._reposition_state(index, shard, alpha)
        self._reposition_group_steps()
        if refresh:
            self._weights.refresh()
        self._synchronize()
        (seconds,) = self._weights.reduce([time.perf_counter() - started], "max")
        if not measure:
            return Displacement(norm=math.nan, slow_norm=math.nan, seconds=seconds)
        moved_sq, slow_sq = self._weights.reduce(norms.totals(), "sum")
        return Displacement(norm=moved_sq**0.5, slow_norm=slow_sq**0.5, seconds=seconds)

    def part(self, number: int, start: int, stop: int, device: torch.device) -> Annotated[torch.Tensor, "float n"]:
        """A range of theta_slow's flat shard `number`, in the order of `OwnedWeights.shards`, on that device. Not to be
        changed."""
        assert self._slow is not None, "there is no snapshot"
        return self._slow[number].view(-1)[start:stop].to(device, non_blocking=True)

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore the weights and, with `restore`, the optimizer's state bit for bit, whatever they are now; a move
        with alpha = 0 would keep NaN values."""
        assert self._slow is not None, "there is no snapshot to put back"
        self.wait()
        for index, shard in enumerate(self._weights.shards()):
            shard.weight.detach().copy_(self._slow[index])
            if self._mode == "restore":
                self._reposition_state(index, shard, alpha=0.0)
        if self._mode == "restore":
            self._reposition_group_steps()
        self._weights.refresh()

    def release_state(self) -> None:
        """Free the copies of the optimizer's state."""
        self._state, self._group_steps = [], []

    def release(self) -> None:
        """Free the copies. Pinned host memory is kept for the next ones: allocating it takes longer than the copy."""
        self.wait()  # after an exception a copy into that memory may still be running
        self._slow = None
        self.release_state()

    def free_host_memory(self) -> None:
        """Return the pinned host memory to the system, when no further copy is expected."""
        assert self._slow is None, "a snapshot is held"
        if self._host:
            self._host.clear()
            torch.accelerator.empty_host_cache()  # otherwise torch keeps it pinned for the rest of the process

    def _reposition_state(self, index: int, shard: Shard, alpha: float) -> None:
        if self._mode == "reset" or (self._mode == "restore" and not self._state[index]):
            _reset_state(shard)
        elif self._mode == "restore":
            for name, slow in self._state[index].items():
                if isinstance(slow, torch.Tensor):
                    shard.state[name].copy_(slow)
                else:
                    shard.state[name] = slow
        elif self._mode == "interpolate":
            for name, fast in shard.inner_state.items():
                if not _is_moment(name, fast, shard.weight):
                    continue
                slow = self._state[index].get(name)
                if slow is None:
                    fast.mul_(alpha)
                else:
                    for fast_part, slow_part in _chunks(fast, slow):
                        fast_part.lerp_(slow_part, 1.0 - alpha)

    def _reposition_group_steps(self) -> None:
        """Fused optimizers (Apex, Transformer Engine) count steps in the parameter group, not in each state."""
        if self._mode == "reset":
            for group in self._groups():
                group.pop("step", None)
        elif self._mode == "restore":
            for group, step in zip(self._groups(), self._group_steps, strict=True):
                if step is None:
                    group.pop("step", None)
                else:
                    group["step"] = step

    def _groups(self) -> list[dict[str, Any]]:
        optimizers = {id(shard.optimizer): shard.optimizer for shard in self._weights.shards()}
        return [group for optimizer in optimizers.values() for group in optimizer.param_groups]

    def _copy(self, key: Hashable, value: object) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if not self._offload or value.dim() == 0 or not value.is_cuda:
            return value.detach().clone()
        if key not in self._host:
            self._host[key] = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        return self._host[key].copy_(value.detach(), non_blocking=True)

    @contextmanager
    def _side_stream(self) -> Iterator[None]:
        """Run copies from a GPU to host memory on their own stream, so that they overlap with the first fast pass."""
        device = self._device()
        if not (self._offload and device.type == "cuda"):
            yield
            return
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            yield
        self._copied = stream.record_event()

    @property
    def bytes(self) -> int:
        """The size of all copies on this rank."""
        copies = list(self._slow or [])
        copies += [value for state in self._state for value in state.values() if isinstance(value, torch.Tensor)]
        return sum(copy.numel() * copy.element_size() for copy in copies)

    def _device(self) -> torch.device:
        return next((shard.weight.device for shard in self._weights.shards()), torch.device("cpu"))

    def _synchronize(self) -> None:
        if self._device().type == "cuda":
            torch.cuda.synchronize(self._device())


def _reset_state(shard: Shard) -> None:
    """Reset the state to that before the first step. Adam's is zeroed in place: Megatron expects it to exist once
    created. Other optimizers may treat zeros and missing state differently (SGD's first momentum is the undampened
    gradient)."""
    if "exp_avg" not in shard.state:
        for name in shard.inner_state:
            shard.state.pop(name)
        if not shard.state:
            shard.optimizer.state.pop(shard.parameter, None)
        return
    for name, value in shard.inner_state.items():
        if isinstance(value, torch.Tensor):
            value.zero_()
        elif name == "step":
            shard.state[name] = 0


def _is_moment(name: str, value: object, weight: torch.Tensor) -> bool:
    return name != "step" and isinstance(value, torch.Tensor) and value.shape == weight.shape
