"""The Megatron-Core actor: log-probabilities, SFPO updates, weights in and out. Every rank makes the same calls."""

import dataclasses
import functools
import gc
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from openrlhf_sfpo.checkpoints.directory import COMMON
from openrlhf_sfpo.megatron import cpu, training_state
from openrlhf_sfpo.megatron.batching import MicroBatch, Sample, exchange, pack, plan_micro_batches
from openrlhf_sfpo.megatron.checkpoint_files import save_model_directory
from openrlhf_sfpo.megatron.checkpoint_writer import Contents, load_object
from openrlhf_sfpo.megatron.export import WeightExchange
from openrlhf_sfpo.megatron.layout import Layout, start_distributed
from openrlhf_sfpo.megatron.model import build_model
from openrlhf_sfpo.megatron.model_config import ModelConfig
from openrlhf_sfpo.megatron.offload import Offload
from openrlhf_sfpo.megatron.optimizer import LearningRate, build_optimizer
from openrlhf_sfpo.megatron.pipeline import LossFunction, LossNorm, Pipeline
from openrlhf_sfpo.megatron.settings import ActorSettings
from openrlhf_sfpo.megatron.shards import MainShards
from openrlhf_sfpo.random_numbers import set_rng_state
from openrlhf_sfpo.sfpo import Pass, SlowCopy, SlowFastUpdate

P = ParamSpec("P")
R = TypeVar("R")


def _on_device(method: Callable[P, R]) -> Callable[P, R]:
    """Run a public method with Megatron's CUDA calls meaning the actor's device."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with cpu.device_scope():
            return method(*args, **kwargs)

    return wrapped


class MegatronActor:
    """A policy on this rank's part of a TP x PP x VPP x DP layout.

    RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT must be set in the environment.

    Args:
        path: Hugging Face model directory.
        layout: how the ranks are laid out.
        settings: how to compute.
        train: build the optimizer; without it the actor only computes log-probabilities (a reference model).

    Raises:
        UsageError: the layout does not fit the model or the world size, or the model is not supported.
    """

    def __init__(self, path: str, layout: Layout, settings: ActorSettings, train: bool = True) -> None:
        if settings.device == "cpu":
            cpu.install()
            if settings.num_threads:
                torch.set_num_threads(settings.num_threads)
        self.path = path
        self.model_config = ModelConfig.from_pretrained(path)
        self.layout = layout
        self.settings = settings
        with cpu.device_scope():
            start_distributed(layout, settings.device == "cuda", timedelta(seconds=settings.timeout))
            layout.check(
                dist.get_world_size(),
                self.model_config.num_layers,
                self.model_config.num_heads,
                self.model_config.num_kv_heads,
            )
            self._build(train)

    def on_progress(self, report: Callable[[], None]) -> None:
        """Have `report` called with each micro-batch and each bucket of weights."""
        self._pipeline.on_progress = self._report = report

    def _build(self, train: bool) -> None:
        config, self._chunks = build_model(self.path, self.model_config, self.layout, self.settings, train)
        plain = [getattr(chunk, "module", chunk) for chunk in self._chunks]
        self.weights = WeightExchange(self.model_config, self.layout, plain, self.settings.weight_bucket_bytes)
        self.weights.load(self.path)
        self._pipeline = Pipeline(config, self._chunks)
        self._report: Callable[[], None] = lambda: None
        self._start_entropy = torch.zeros(2, dtype=torch.float64)  # sum and tokens
        if train:
            # The optimizer copies the parameters into its fp32 shards, so it comes after the weights.
            self.optimizer = build_optimizer(self._chunks, self.settings)
            self.learning_rate = LearningRate(self.optimizer, self.settings.optimizer)
            self.shards = MainShards(self.optimizer, self._chunks)
            self._before = SlowCopy(self.shards, "restore", "cpu") if self.settings.skip_nonfinite else None
            _check_norms(self.optimizer)
        shards = self.shards if train else None
        parameters = self.settings.offload_parameters or not train
        self._offload = Offload(self._chunks, shards, parameters, self.finish_parameter_gather)

    @_on_device
    def offload_states(self) -> None:
        """Move what only training needs, and with `offload_parameters` the parameters, to host memory. What needs them
        brings them back for as long as it runs. Called on every rank."""
        self._offload.offload()

    @_on_device
    def reload_states(self) -> None:
        """Bring back what `offload_states` moved, to stay."""
        self._offload.reload()

    @_on_device
    def forward(self, samples: list[Sample]) -> list[torch.Tensor]:
        """Log-probabilities at the current weights.

        Args:
            samples: those of this rank's model copy; the ranks that share the copy pass the same.

        Returns:
            For each sample fp32 [length - 1] on the CPU, zero outside the action mask, on every rank.
        """
        batch = _RolloutBatch(self, [Sample(sample.tokens, sample.action_mask) for sample in samples])
        with self._offload.present("parameters"):
            return batch.to_owners(self._log_probs_of(batch))

    def _log_probs_of(self, batch: "_RolloutBatch") -> dict[int, torch.Tensor]:
        """By sample number, where this rank has a last stage."""
        log_probs: dict[int, torch.Tensor] = {}
        for step in range(batch.num_steps):
            numbers, batches = batch.micro_batches(step)
            outputs = self._pipeline.forward(batches)
            for members, (values, entropies) in zip(numbers, outputs, strict=False):  # empty before the last stage
                self._start_entropy += torch.tensor([entropies.sum(dtype=torch.float64).item(), len(entropies)])
                for row, number in enumerate(members):
                    log_probs[number] = values[row, : batch.length(number) - 1].cpu()
        return log_probs

    def take_start_entropy(self) -> float | None:
        """Mean entropy (nats per token) in the `forward` calls since the last time, over all ranks; None without."""
        total, tokens = self.shards.reduce((self._start_entropy * _speaks()).tolist(), "sum")
        self._start_entropy.zero_()
        return total / tokens if tokens else None

    @_on_device
    def update(self, samples: list[Sample], loss_function: LossFunction, sfpo: SlowFastUpdate) -> dict[str, Any]:
        """One SFPO (or, with the gate closed, GRPO) update over a rollout batch.

        Args:
            samples: those of this rank's model copy, with `old_log_probs` and `advantages`.
            loss_function: loss of a micro-batch.
            sfpo: the algorithm and its state.

        Returns:
            Metrics, the same on every rank: `sfpo/*`, `policy_loss`, `entropy`, `actor_grad_norm` (of the last step,
            before clipping), `actor_lr`, `optimizer_steps` and the loss function's token means, all of the slow pass.
            `skipped_update` is 0; with `skip_nonfinite` it is 1, and alone but for `skipped_because`, where the update
            came upon a number that is not finite: everything is then as it was before it.

        Raises:
            NonFiniteUpdate: a loss or a gradient norm is not finite, without `skip_nonfinite`.
        """
        with self._offload.present(changes=True):
            return self._update(_PassRunner(self, _RolloutBatch(self, samples), loss_function), sfpo)

    def _update(self, runner: "_PassRunner", sfpo: SlowFastUpdate) -> dict[str, Any]:
        if self._before is None:
            slow, metrics = sfpo.step(runner)
            return {**slow, **metrics, "skipped_update": 0.0}
        states = sfpo.state_dict(), self.learning_rate.state_dict()
        self._before.take()
        try:
            slow, metrics = sfpo.step(runner)
            return {**slow, **metrics, "skipped_update": 0.0}
        except NonFiniteUpdate as error:
            self._before.put_back()
            sfpo.load_state_dict(states[0])
            self.learning_rate.load_state_dict(states[1])
            return {"skipped_update": 1.0, "skipped_because": str(error)}
        finally:
            self._before.release()

    @_on_device
    def export(self, everyone: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        """Stream the weights as Hugging Face tensors; see `WeightExchange.stream`. Every rank must exhaust it."""
        return self._reporting(everyone)

    @_on_device
    def save_pretrained(self, target: str) -> None:
        """Write a Hugging Face directory that transformers and vLLM load. Called on every rank; rank 0 writes."""
        stream = self.export()
        if dist.get_rank() == 0:
            save_model_directory(target, self.path, stream, self.weights.dtype)
        else:
            for _ in stream:
                pass
        dist.barrier()

    @_on_device
    def contents(self, step: int, common: dict[str, Any], manifest: dict[str, Any]) -> Contents:
        """Copies of everything that a checkpoint needs to continue this training.

        Args:
            step: steps of training so far.
            common: what else is to be kept, the same on all ranks.
            manifest: what the checkpoint's manifest shall say.
        """
        own = {"adam_step": training_state.adam_step_of(self), "learning_rate": self.learning_rate.state_dict()}
        with self._offload.present("optimizer", "parameters"):
            tensors = training_state.staged(self)
        return Contents(
            step,
            tensors,
            {**common, "actor": own},
            Path(self.path),
            {"layout": dataclasses.asdict(self.layout) | {"world_size": dist.get_world_size()}, **manifest},
        )

    @_on_device
    def restore(self, directory: Path) -> dict[str, Any]:
        """Continue from a checkpoint, of this or any other layout. Called on every rank.

        With as many ranks as wrote it each gets back its random numbers, too.

        Returns:
            What was given to `contents` as `common`.
        """
        common = load_object(directory / COMMON)
        own = common.pop("actor")
        with self._offload.present(changes=True):
            training_state.restore(self, directory, own["adam_step"])
        self.learning_rate.load_state_dict(own["learning_rate"])
        files = sorted(directory.glob("rng_*.pt"))
        if len(files) == dist.get_world_size():
            set_rng_state(load_object(files[dist.get_rank()]))
        return common

    def close(self) -> None:
        """Free model and optimizer, which refer to themselves in circles. The process groups stay."""
        vars(self).clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def finish_parameter_gather(self) -> None:
        """With overlap_param_gather the last update's parameters are gathered by the next forward pass only; do it
        now, before anyone reads them otherwise."""
        for chunk in self._chunks:
            if getattr(chunk, "ddp_config", None) and chunk.ddp_config.overlap_param_gather:
                chunk.start_param_sync(force_sync=True)

    def _reporting(self, everyone: bool) -> Iterator[tuple[str, torch.Tensor]]:
        with self._offload.present("parameters"):
            with cpu.device_scope():
                self.finish_parameter_gather()
            for named_tensor in self.weights.stream(everyone):
                self._report()
                yield named_tensor

    def compute_gradients(self, batches: list[MicroBatch], loss_function: LossFunction, norm: LossNorm) -> list[Any]:
        """Leave the gradients of one train batch, reduced, in the DDP buffers; return the micro-batches' metrics."""
        for chunk in self._chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        return self._pipeline.forward_backward(batches, loss_function, norm)


class NonFiniteUpdate(RuntimeError):
    """A loss or a gradient norm is NaN or infinite. Raised on all ranks, before the optimizer step that it would have
    gone into."""


def _check_norms(optimizer: Any) -> None:
    """Have the optimizer's step raise where it would clip by a norm that is not finite: that makes all weights NaN.

    The norm is the same on all ranks, so that all of them raise."""
    norm_of = optimizer.get_grad_norm

    def checked() -> float:
        norm = norm_of()
        if not math.isfinite(norm):
            raise NonFiniteUpdate(f"the gradient norm is {float(norm)}")
        return norm

    optimizer.get_grad_norm = checked


class _RolloutBatch:
    """A rollout batch spread over data-parallel ranks: who computes what, and getting results back to the owners."""

    def __init__(self, actor: MegatronActor, samples: list[Sample]) -> None:
        self._device = actor.settings.device
        self._group = parallel_state.get_data_parallel_group_gloo()
        self._rank = self._group.rank()
        by_rank = exchange(samples, self._group)
        self._first = sum(len(rank) for rank in by_rank[: self._rank])
        self._count = len(samples)
        self._samples = [sample for rank in by_rank for sample in rank]
        self._plan = plan_micro_batches(
            [[len(sample.tokens) for sample in rank] for rank in by_rank],
            actor.settings.train_batch_size,
            actor.settings.max_tokens_per_gpu,
            multiple_of=actor.layout.pp if actor.layout.vpp > 1 else 1,
        )
        self._is_source = actor._pipeline.is_last_stage

    @property
    def num_steps(self) -> int:
        """Train batches, that is optimizer steps in one traversal."""
        return len(self._plan)

    def length(self, number: int) -> int:
        return len(self._samples[number].tokens)

    def micro_batches(self, step: int) -> tuple[list[list[int]], list[MicroBatch]]:
        """This rank's micro-batches of a train batch: the numbers of their samples, and the packed tensors."""
        numbers = self._plan[step][self._rank]
        return numbers, [pack([self._samples[n] for n in members], self._device) for members in numbers]

    def norm(self, step: int) -> LossNorm:
        """Totals of a train batch over all ranks."""
        masks = [
            self._samples[number].action_mask for rank in self._plan[step] for members in rank for number in members
        ]
        return LossNorm(
            num_tokens=max(1.0, float(sum(int(mask.sum()) for mask in masks))),
            num_sequences=max(1.0, float(sum(bool(mask.any()) for mask in masks))),
        )

    def to_owners(self, values: dict[int, torch.Tensor]) -> list[torch.Tensor]:
        """Results by sample number, known on last stages, as a list of this rank's own samples on every stage."""
        pipeline = parallel_state.get_pipeline_model_parallel_group()
        shared = [values]
        if pipeline.size() > 1:
            source = parallel_state.get_pipeline_model_parallel_last_rank()
            dist.broadcast_object_list(shared, src=source, group=pipeline, device=torch.device("cpu"))
        if self._group.size() == 1:
            everything = shared[0]
        else:
            parts: list[dict[int, torch.Tensor]] = [{} for _ in range(self._group.size())]
            dist.all_gather_object(parts, shared[0], group=self._group)
            everything = {number: value for part in parts for number, value in part.items()}
        return [everything[number] for number in range(self._first, self._first + self._count)]


class _PassRunner:
    """`sfpo.PassRunner` over the actor and one rollout batch."""

    def __init__(self, actor: MegatronActor, batch: _RolloutBatch, loss_function: LossFunction) -> None:
        self._actor = actor
        self._batch = batch
        self._loss_function = loss_function

    def run_pass(self, pass_: Pass) -> dict[str, float]:
        actor, totals = self._actor, _TokenMeans()
        metrics: dict[str, float] = {}
        actor.learning_rate.scale(pass_.learning_rate_factor)
        steps = [step for _ in range(actor.settings.epochs) for step in range(self._batch.num_steps)]
        for index, step in enumerate(steps):
            _, batches = self._batch.micro_batches(step)
            outputs = actor.compute_gradients(batches, self._loss_function, self._batch.norm(step))
            self._check_losses(outputs)
            totals.add(outputs)
            if index == 0:
                if pass_.stage == "slow":
                    metrics["momentum_grad_cosine"] = actor.shards.momentum_grad_cosine()
                pass_.before_first_step()
            metrics["actor_lr"] = actor.learning_rate.value
            nobody_reads = pass_.repositioned_next and index == len(steps) - 1
            with actor.shards.gather_skipped() if nobody_reads else nullcontext():
                _, metrics["actor_grad_norm"], _ = actor.optimizer.step()
            if pass_.advances_schedule:
                actor.learning_rate.advance()
        return {**metrics, "optimizer_steps": float(len(steps)), **totals.reduce()}

    def _check_losses(self, outputs: list[dict[str, Any]]) -> None:
        """Raise on all ranks alike if a loss is not finite on any."""
        bad = any(not math.isfinite(output["loss"]) for output in outputs)
        if self._actor.shards.reduce([float(bad)], "max")[0]:
            raise NonFiniteUpdate("the loss is not finite")

    def start_entropy(self) -> float | None:
        return self._actor.take_start_entropy()


class _TokenMeans:
    """Adds up micro-batch metrics and averages them by token over a pass and over all ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._tokens = 0.0
        self._steps = 0

    def add(self, outputs: list[dict[str, Any]]) -> None:
        """Metrics of one optimizer step's micro-batches; empty on stages before the last."""
        self._steps += 1
        for output in outputs:
            tokens = output["tokens"]
            self._tokens += tokens
            for name, value in output.items():
                if name == "loss":
                    self._sums["policy_loss"] = self._sums.get("policy_loss", 0.0) + float(value)
                elif name != "tokens":
                    self._sums[name] = self._sums.get(name, 0.0) + float(value) * tokens

    def reduce(self) -> dict[str, float]:
        """The same means on every rank."""
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, (self._sums, self._tokens) if _speaks() else ({}, 0.0))
        tokens = sum(part[1] for part in gathered)
        names = sorted({name for part in gathered for name in part[0]})
        sums = {name: sum(part[0].get(name, 0.0) for part in gathered) for name in names}
        return {
            name: total / self._steps if name == "policy_loss" else total / max(tokens, 1.0)
            for name, total in sums.items()
        }


def _speaks() -> bool:
    """Whether this rank's token means enter sums over all ranks: one tensor-parallel rank of each last stage does, the
    others know the same or nothing."""
    return parallel_state.get_tensor_model_parallel_rank() == 0 and parallel_state.is_pipeline_last_stage(
        ignore_virtual=True
    )
