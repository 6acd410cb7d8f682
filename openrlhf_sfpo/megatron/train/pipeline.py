"""Runs micro-batches through Megatron's pipeline schedules: forward only, or forward and backward."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.transformer_config import TransformerConfig

from openrlhf_sfpo.megatron.data.batching import MicroBatch
from openrlhf_sfpo.megatron.data.loss_types import LossFunction, LossNorm
from openrlhf_sfpo.megatron.model.context_parallel import merged


class Pipeline:
    """Forward and backward passes of one train batch through this rank's model chunks.

    Args:
        config: Megatron's configuration; the schedules' hooks in it are set here.
        chunks: model chunks, DDP-wrapped for training.
    """

    def __init__(self, config: TransformerConfig, chunks: list[torch.nn.Module]) -> None:
        self._chunks = chunks
        self.on_progress: Callable[[], None] = lambda: None
        self._schedule = get_forward_backward_func()
        self.is_last_stage = parallel_state.is_pipeline_last_stage(ignore_virtual=True)
        ddp_config = getattr(chunks[0], "ddp_config", None)
        if ddp_config is not None:
            # The schedule would divide by its own token count; the loss function already has.
            config.finalize_model_grads_func = lambda model, num_tokens=None, **kwargs: finalize_model_grads(model)
            if ddp_config.overlap_grad_reduce:
                hooks = [chunk.no_sync for chunk in chunks]
                config.no_sync_func = hooks if len(chunks) > 1 else hooks[0]

    @torch.no_grad()
    def forward(self, batches: list[MicroBatch]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each micro-batch the log-probabilities, fp32 [B, A], and the entropies of the scored positions, fp32 [n];
        empty before the last pipeline stage."""

        def collect(batch: MicroBatch, output: torch.Tensor) -> Any:
            return output.sum(), torch.tensor(0), (batch.padded(output[0]), output[1])

        return self._run(batches, collect, forward_only=True)

    def forward_backward(
        self, batches: list[MicroBatch], loss_function: LossFunction, norm: LossNorm
    ) -> list[dict[str, torch.Tensor | int]]:
        """Add the gradients of a train batch to the DDP buffers and reduce them over data-parallel ranks.

        Returns:
            On the last pipeline stage one dict per micro-batch: `loss` (its share), `tokens`, `entropy` and the loss
            function's metrics. Elsewhere an empty list.
        """

        def loss_and_metrics(batch: MicroBatch, output: torch.Tensor) -> Any:
            count = len(batch.rows)
            if count == 0:
                # A micro-batch without scored tokens only takes part in communication.
                return output.sum() * 0.0, torch.tensor(0), {"loss": output.new_zeros(()), "tokens": 0}
            log_probs, entropy = batch.padded(output[0]), batch.padded(output[1])
            loss, metrics = loss_function(log_probs, entropy, batch, norm)
            detached: dict[str, torch.Tensor | int] = {name: value.detach() for name, value in metrics.items()}
            detached.update(loss=loss.detach(), tokens=count, entropy=output[1].detach().mean())
            return loss, torch.tensor(count, dtype=torch.int, device=loss.device), detached

        return self._run(batches, loss_and_metrics, forward_only=False)

    def _run(
        self, batches: list[MicroBatch], on_last: Callable[[MicroBatch, torch.Tensor], Any], forward_only: bool
    ) -> list[Any]:
        def step(iterator: Iterator[MicroBatch], model: torch.nn.Module) -> Any:
            batch = next(iterator)
            self.on_progress()
            output = model(batch.tokens, batch.packed, batch.positions, batch.selected, batch.labels)
            return output, lambda output: on_last(batch, merged(output, batch.places, len(batch.rows), group))

        group = parallel_state.get_context_parallel_group()
        for chunk in self._chunks:
            chunk.train(not forward_only)
        # Each chunk of the interleaved schedule iterates over the micro-batches on its own.
        iterators = [iter(batches) for _ in self._chunks]
        return self._schedule(
            forward_step_func=step,
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=self._chunks if len(self._chunks) > 1 else self._chunks[0],
            num_microbatches=len(batches),
            seq_length=1,  # not read: variable_seq_lengths makes the stages exchange shapes
            micro_batch_size=1,
            forward_only=forward_only,
        )
