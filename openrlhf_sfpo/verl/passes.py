"""SFPO around the updates of verl's training worker: each pass over a rollout batch is one of verl's own."""

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from openrlhf_sfpo.config.flags import SFPOConfig
from openrlhf_sfpo.orchestration.algorithm import build_update
from openrlhf_sfpo.sfpo import OwnedWeights, Pass, ShardedTorchWeights
from openrlhf_sfpo.sfpo.steps import scale_learning_rates
from openrlhf_sfpo.system.files import write_atomically
from openrlhf_sfpo.verl.settings import NAME

_STATE = "sfpo.json"  # beside verl's checkpoint of the actor
# The metrics that the algorithm reads, by verl's names for them. Versions differ: the first that is found counts.
_METRICS = {
    "entropy": ("actor/entropy_loss", "actor/entropy"),
    "ppo_kl": ("actor/ppo_kl",),
    "clip_ratio": ("actor/pg_clipfrac",),
    "actor_grad_norm": ("grad_norm", "actor/grad_norm"),
}


def train_with_sfpo(worker: Any, settings: SFPOConfig, config: Mapping[str, Any]) -> None:
    """Replace the updates of an actor's worker, and add the gate's state to its checkpoints.

    Args:
        worker: verl's training worker, with its model and optimizer.
        settings: SFPO's.
        config: of the worker around it, `actor_rollout_ref`.

    Raises:
        ValueError: naming the setting that cannot be combined with SFPO.
    """
    _refuse(settings, config)
    weights = _weights_of(worker.engine, settings)
    update = build_update(settings, weights, lambda stage: None)
    train, save, load = worker.train_mini_batch, worker.save_checkpoint, worker.load_checkpoint

    @functools.wraps(train)
    def train_mini_batch(data: Any) -> Any:
        return _Batch(worker, train, weights, data).update(update)

    @functools.wraps(save)
    def save_checkpoint(local_path: str, *args: Any, **kwargs: Any) -> Any:
        result = save(local_path, *args, **kwargs)
        if dist.get_rank() == 0:
            write_atomically(Path(local_path) / _STATE, json.dumps(update.state_dict()).encode())
        return result

    @functools.wraps(load)
    def load_checkpoint(local_path: str, *args: Any, **kwargs: Any) -> Any:
        file = Path(local_path) / _STATE if local_path else None
        state = [json.loads(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else None]
        result = load(local_path, *args, **kwargs)
        dist.broadcast_object_list(state, src=0)
        if state[0] is not None:
            update.load_state_dict(state[0])
        return result

    worker.train_mini_batch, worker.save_checkpoint, worker.load_checkpoint = (
        train_mini_batch,
        save_checkpoint,
        load_checkpoint,
    )


def _refuse(settings: SFPOConfig, config: Mapping[str, Any]) -> None:
    model, actor = config.get("model") or {}, config.get("actor") or {}
    adapters = model.get("lora_rank", 0) or (model.get("lora") or {}).get("rank", 0)
    if adapters:
        raise ValueError(
            f"actor_rollout_ref.model.lora_rank: is {adapters}. SFPO moves all weights, and with LoRA only the "
            f"adapters' are trained. Train all weights, or leave {NAME} out."
        )
    reads_entropy = settings.k and settings.gate not in ("off", "grad_norm", "cosine")
    if reads_entropy and not actor.get("calculate_entropy", False) and not actor.get("entropy_coeff", 0.0):
        raise ValueError(
            f"{NAME}.gate: is {settings.gate}, which reads the entropy, and verl does not compute it. Set "
            f"actor_rollout_ref.actor.calculate_entropy=True, or +{NAME}.gate=off."
        )


def _weights_of(engine: Any, settings: SFPOConfig) -> OwnedWeights:
    """The weights of a verl engine.

    Raises:
        ValueError: the engine's strategy is unknown, or its weights are not in fp32.
    """
    strategy = type(engine).__module__.split(".")[3:4]
    if hasattr(engine.optimizer, "chained_optimizers") or strategy == ["megatron"]:
        if settings.preset == "prepo":
            raise ValueError(f"{NAME}.preset: is prepo, which SFPO in verl has with FSDP only.")
        from openrlhf_sfpo.verl.megatron_weights import MegatronWeights

        return MegatronWeights(engine)
    if not hasattr(engine.optimizer, "param_groups"):
        raise ValueError(
            "actor_rollout_ref.actor.strategy: SFPO in verl moves the weights of FSDP's and Megatron's engines, and "
            f"this is a {type(engine).__name__}."
        )
    try:
        return ShardedTorchWeights(engine.optimizer)
    except ValueError as error:
        raise ValueError(f"{error} (actor_rollout_ref.actor.fsdp_config.model_dtype=fp32)") from None


class _Batch:
    """One rollout batch: `sfpo.PassRunner` over verl's worker.

    Args:
        worker: verl's.
        train: its own `train_mini_batch`.
        weights: those that move.
        data: what the trainer has sent.
    """

    def __init__(self, worker: Any, train: Callable[[Any], Any], weights: OwnedWeights, data: Any) -> None:
        self._worker, self._train, self._weights, self._data = worker, train, weights, data
        self._output: Any = None
        self._steps = 0

    def update(self, update: Any) -> Any:
        """Run the algorithm; return verl's output of the last pass, with our metrics."""
        from verl.utils import tensordict_utils as tu

        offloads = not tu.get(self._data, key="disable_auto_offload", default=False)
        with self._worker.engine.train_mode(disable_auto_offload=not offloads):
            _, metrics = update.step(self)
        if self._output is None:
            return None
        merged = dict(tu.get(self._output, "metrics"))
        merged |= {name: [value] for name, value in metrics.items() if value is not None}
        return tu.get_tensordict(tensor_dict={}, non_tensor_dict={"metrics": merged}).cpu()

    def run_pass(self, pass_: Pass) -> dict[str, float]:
        from verl.utils import tensordict_utils as tu

        data = self._data.clone(recurse=False)  # verl takes the settings out of it
        tu.assign_non_tensor(data, disable_auto_offload=True)
        steps = self._steps
        with self._watched(pass_):
            self._output = self._train(data)
        found = {} if self._output is None else dict(tu.get(self._output, "metrics"))
        metrics = {name: _first(found, names) for name, names in _METRICS.items()}
        # Only some ranks have them. NaN is what no rank has.
        shared = self._weights.reduce([-math.inf if math.isnan(value) else value for value in metrics.values()], "max")
        metrics = {name: math.nan if value == -math.inf else value for name, value in zip(metrics, shared, strict=True)}
        self._train_batches = self._steps - steps
        return {**metrics, "optimizer_steps": float(self._train_batches)}

    @contextmanager
    def _watched(self, pass_: Pass) -> Iterator[None]:
        """Count the engine's optimizer steps, with this pass's learning rates; pause the schedule."""
        engine = self._worker.engine
        step, advance = engine.optimizer_step, engine.lr_scheduler_step
        first = True

        def optimizer_step(*args: Any, **kwargs: Any) -> Any:
            nonlocal first
            if first:
                pass_.before_first_step()
            first = False
            self._steps += 1
            restore = scale_learning_rates(engine.optimizer, pass_.learning_rate_factor)
            try:
                return step(*args, **kwargs)
            finally:
                restore()

        def lr_scheduler_step() -> Any:
            return advance() if pass_.advances_schedule else engine.optimizer.param_groups[0]["lr"]

        engine.optimizer_step, engine.lr_scheduler_step = optimizer_step, lr_scheduler_step
        try:
            yield
        finally:
            del engine.optimizer_step, engine.lr_scheduler_step  # the class has its own

    @property
    def train_batches(self) -> int:
        return self._train_batches

    def zero_rewards(self) -> float | None:
        return None

    def start_entropy(self) -> float | None:
        return None


def _first(metrics: Mapping[str, Any], names: tuple[str, ...]) -> float:
    """The mean of the first of these metrics, NaN without any."""
    found = next((metrics[name] for name in names if name in metrics), None)
    if found is None:
        return math.nan
    numbers = _numbers(found)
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _numbers(value: Any) -> list[float]:
    if isinstance(value, list | tuple):
        return [number for item in value for number in _numbers(item)]
    return [float(value.aggregate() if hasattr(value, "aggregate") else value)]
