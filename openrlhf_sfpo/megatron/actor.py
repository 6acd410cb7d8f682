"""The Megatron-Core actor: log-probabilities, SFPO updates, loading and exporting weights. All ranks make the same
calls."""

import dataclasses
import functools
import gc
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import torch
import torch.distributed as dist

from openrlhf_sfpo.checkpoints.directory import COMMON
from openrlhf_sfpo.checkpoints.hf_writer import save_model_directory
from openrlhf_sfpo.megatron import cpu
from openrlhf_sfpo.megatron.data.batching import MicroBatch, Sample, Scored
from openrlhf_sfpo.megatron.data.loss_types import LossFunction, LossNorm
from openrlhf_sfpo.megatron.data.rollout_batch import RolloutBatch
from openrlhf_sfpo.megatron.layout import Layout, start_distributed
from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.megatron.model.layers import choose_layers
from openrlhf_sfpo.megatron.model.model import build_model
from openrlhf_sfpo.megatron.offload import Offload
from openrlhf_sfpo.megatron.settings import ActorSettings
from openrlhf_sfpo.megatron.state import training_state
from openrlhf_sfpo.megatron.state.writer import Contents, load_object
from openrlhf_sfpo.megatron.train.main_parameters import MainShards
from openrlhf_sfpo.megatron.train.optimizer import LearningRate, build_optimizer
from openrlhf_sfpo.megatron.train.pass_runner import PassRunner, check_norms, is_metrics_rank
from openrlhf_sfpo.megatron.train.pipeline import Pipeline
from openrlhf_sfpo.megatron.weights.export import WeightExchange
from openrlhf_sfpo.megatron.weights.mapping import weight_plan
from openrlhf_sfpo.sfpo import Choice, SlowCopy, SlowFastUpdate
from openrlhf_sfpo.system.random_state import set_rng_state
from openrlhf_sfpo.system.replaced_names import RELIED_ON
from openrlhf_sfpo.system.replacements import check_library
from openrlhf_sfpo.system.run_errors import NonFiniteUpdate

P = ParamSpec("P")
R = TypeVar("R")


def _on_device(method: Callable[P, R]) -> Callable[P, R]:
    """Run a public method with Megatron's CUDA calls redirected to the actor's device."""

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
        layout: the layout of the ranks.
        settings: how the actor computes.
        train: build the optimizer; without it the actor only computes log-probabilities (a reference model).

    Raises:
        UsageError: the layout does not fit the model or the world size, or the model is not supported.
    """

    def __init__(self, path: str, layout: Layout, settings: ActorSettings, train: bool = True) -> None:
        check_library("megatron", RELIED_ON)
        if settings.device == "cpu":
            cpu.install()
            if settings.num_threads:
                torch.set_num_threads(settings.num_threads)
        self.path = path
        self.model_config = ModelConfig.from_pretrained(path)
        self.layout = layout
        layer_spec, attention = choose_layers(settings)
        self.settings = settings = dataclasses.replace(settings, layer_spec=layer_spec, attention=attention)
        with cpu.device_scope():
            start_distributed(layout, settings.device == "cuda", timedelta(seconds=settings.timeout))
            layout.check(dist.get_world_size(), self.model_config)
            self._build(train)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The model's device."""
        return self.settings.device

    @property
    def weight_bucket_bytes(self) -> int:
        """The size of the buckets in which weights are gathered and sent."""
        return self.settings.weight_bucket_bytes

    def weight_metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Hugging Face name, dtype and shape of each tensor, in the order of `export`."""
        return self.weights.metadata()

    def on_progress(self, report: Callable[[], None]) -> None:
        """Set a function to be called after each micro-batch and each bucket of weights."""
        self._pipeline.on_progress = self._report = report

    def _build(self, train: bool) -> None:
        config, self._chunks = build_model(self.path, self.model_config, self.layout, self.settings, train)
        plain = [chunk.module if train else chunk for chunk in self._chunks]
        assert self.settings.layer_spec != "auto"  # see __init__
        plan = weight_plan(self.model_config, self.layout, self.settings.layer_spec)
        self.weights = WeightExchange(self.model_config, self.layout, plain, plan, self.settings.weight_bucket_bytes)
        self.weights.load(self.path)
        self._pipeline = Pipeline(config, self._chunks)
        self._report = lambda: None
        self._trains = train
        self._scored: RolloutBatch | None = None
        self._start_entropy = torch.zeros(2, dtype=torch.float64)  # sum and tokens
        if train:
            # The optimizer copies the parameters into its fp32 shards, so it comes after the weights.
            self.optimizer = build_optimizer(self._chunks, self.settings)
            self.learning_rate = LearningRate(self.optimizer, self.settings.optimizer)
            self.shards = MainShards(self.optimizer, self._chunks, self.weights)
            self._before = SlowCopy(self.shards, "restore", "cpu") if self.settings.skip_nonfinite else None
            check_norms(self.optimizer)
        shards = self.shards if train else None
        parameters = self.settings.offload_parameters or not train
        self._offload = Offload(self._chunks, shards, parameters, self.finish_parameter_gather)

    @_on_device
    def offload_states(self) -> None:
        """Move the state that only training needs, and with `offload_parameters` the parameters, to host memory.
        Methods that need it reload it while they run. Called on every rank."""
        self._offload.offload()

    @_on_device
    def reload_states(self) -> None:
        """Reload the offloaded state permanently."""
        self._offload.reload()

    @_on_device
    def forward(self, samples: list[Sample]) -> list[Annotated[torch.Tensor, "float32 _"]]:
        """Log-probabilities at the current weights.

        Args:
            samples: this rank's samples; the ranks of a model copy pass the same.

        Returns:
            For each sample fp32 [length - 1] on the CPU, zero outside the action mask, on every rank.
        """
        bare = [Sample(sample.tokens, sample.action_mask) for sample in samples]
        batch = RolloutBatch(self.layout, self.settings, bare)
        with self._offload.present("parameters"):
            log_probs = batch.to_owners(self._log_probs_of(batch))
        self._scored = batch if self._trains else None  # the update on these samples reuses it
        return log_probs

    def _log_probs_of(self, batch: RolloutBatch) -> dict[int, torch.Tensor]:
        """The log-probabilities by sample number, on last stages."""
        log_probs: dict[int, torch.Tensor] = {}
        for step in range(batch.num_steps):
            numbers, batches = batch.micro_batches(step)
            outputs = self._pipeline.forward(batches)
            for members, (values, entropies) in zip(numbers, outputs, strict=False):  # empty before the last stage
                self.add_start_entropies(entropies)
                on_cpu = values.cpu()
                for row, number in enumerate(members):
                    log_probs[number] = on_cpu[row, : batch.length(number) - 1]
        return log_probs

    def add_start_entropies(self, entropies: Scored) -> None:
        """Record entropies of the policy at theta_0, fp32 [n]."""
        self._start_entropy += torch.tensor([entropies.sum(dtype=torch.float64).item(), len(entropies)])

    def token_sums(self, sums: torch.Tensor) -> list[float]:
        """Sums over all ranks of values that the loss function accumulated on each, fp64 [n]; the same on every
        rank."""
        return self.shards.reduce((sums.cpu() * is_metrics_rank()).tolist(), "sum")

    def take_start_entropy(self) -> float | None:
        """Mean entropy (nats per token) in the `forward` calls since the last call, over all ranks; None without
        any."""
        total, tokens = self.token_sums(self._start_entropy)
        self._start_entropy.zero_()
        return total / tokens if tokens else None

    @_on_device
    def update(
        self,
        samples: list[Sample],
        loss_function: LossFunction,
        sfpo: SlowFastUpdate,
        before_first_step: Callable[[], None] | None = None,
        zero_rewards: Callable[[], float | None] = lambda: None,
    ) -> dict[str, Any]:
        """One SFPO (or, with the gate closed, GRPO) update over a rollout batch.

        Args:
            samples: those of this rank's model copy, with `advantages` and `old_log_probs`. If a traversal is one
                optimizer step, `old_log_probs` may be omitted: those of the first forward pass are then used.
            loss_function: loss of a micro-batch.
            sfpo: the algorithm with its state.
            before_first_step: called on every rank once the losses of the first optimizer step are computed; if it
                raises, on every rank, the weights are unchanged.
            zero_rewards: returns the share of the batch's responses, over all ranks, that have reward 0, if it is
                known; called on every rank where the update needs it.

        Returns:
            Metrics, the same on every rank: `sfpo/*`, `policy_loss`, `entropy`, `actor_grad_norm` (of the last step,
            before clipping), `actor_lr`, `optimizer_steps` and the loss function's token means, all of the slow pass;
            `skipped_update` is 0. With `skip_nonfinite`, if a number is not finite, everything is restored to before
            the update, and the metrics are only `skipped_update` 1 and `skipped_because`.

        Raises:
            NonFiniteUpdate: a loss or a gradient norm is not finite, without `skip_nonfinite`.
        """
        with self._offload.present(changes=True):
            batch = RolloutBatch(self.layout, self.settings, samples, self._scored)
            self._scored = None

            def part_of(choose: Choice, whole_divisors: bool) -> RolloutBatch:
                return RolloutBatch(self.layout, self.settings, samples, choose=choose, whole_divisors=whole_divisors)

            runner = PassRunner(self, batch, loss_function, before_first_step, part_of, zero_rewards)
            return self._update(runner, sfpo)

    def _update(self, runner: PassRunner, sfpo: SlowFastUpdate) -> dict[str, Any]:
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
        """Write a Hugging Face directory for transformers and vLLM. Called on every rank; rank 0 writes."""
        stream = self.export()
        if dist.get_rank() == 0:
            save_model_directory(target, self.path, stream, self.weights.dtype)
        else:
            for _ in stream:
                pass
        dist.barrier()

    @_on_device
    def contents(self, step: int, common: dict[str, Any], manifest: dict[str, Any]) -> Contents:
        """Copy everything that a checkpoint needs to continue this training.

        Args:
            step: training steps so far.
            common: additional state, the same on all ranks.
            manifest: entries for the checkpoint's manifest.
        """
        own = {
            "adam_step": training_state.adam_step_of(self),
            "outer_momentum": training_state.has_outer_momentum(self),
            "learning_rate": self.learning_rate.state_dict(),
        }
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

        With the same number of ranks as wrote it, each rank also restores its random state.

        Returns:
            The `common` argument of `contents`.
        """
        common = load_object(directory / COMMON)
        own = common.pop("actor")
        self._restore_weights(directory, own)
        self.learning_rate.load_state_dict(own["learning_rate"])
        files = sorted(directory.glob("rng_*.pt"))
        if len(files) == dist.get_world_size():
            set_rng_state(load_object(files[dist.get_rank()]))
        return common

    @_on_device
    def start_from(self, directory: Path) -> None:
        """Begin with the weights and the optimizer's state in a checkpoint, of any layout. Called on every rank."""
        self._restore_weights(directory, load_object(directory / COMMON)["actor"])

    def _restore_weights(self, directory: Path, own: dict[str, Any]) -> None:
        with self._offload.present(changes=True):
            training_state.restore(self, directory, own["adam_step"], own.get("outer_momentum", False))

    def close(self) -> None:
        """Free model and optimizer, which contain reference cycles. The process groups stay."""
        vars(self).clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def finish_parameter_gather(self) -> None:
        """Gather the last update's parameters now, before they are read. With overlap_param_gather only the next
        forward pass would gather them."""
        for chunk in self._chunks:
            if getattr(chunk, "ddp_config", None) and chunk.ddp_config.overlap_param_gather:
                chunk.start_param_sync(force_sync=True)

    def _finish_gather(self) -> None:
        with cpu.device_scope():
            self.finish_parameter_gather()

    def _reporting(self, everyone: bool) -> Iterator[tuple[str, torch.Tensor]]:
        with self._offload.present("parameters"):
            for named_tensor in self.weights.stream(everyone, self._finish_gather):
                self._report()
                yield named_tensor

    def compute_gradients(self, batches: list[MicroBatch], loss_function: LossFunction, norm: LossNorm) -> list[Any]:
        """Compute the gradients of one train batch, reduced, in the DDP buffers; return the micro-batches' metrics."""
        for chunk in self._chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        return self._pipeline.forward_backward(batches, loss_function, norm)
