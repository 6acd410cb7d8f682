"""Checks that engines and actor compute the same model, by the distance between their log-probabilities.

Rounding explains only distances far below the limits here. Larger ones mean that the two disagree about the model (one
ignores a setting of config.json, or weights or tokens differ), and that training would use another policy's samples.
"""

import math
from collections.abc import Iterable

import torch

from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.system.run_errors import EngineMismatch

# Mean distances in nats per token. With both in fp32 it is 1e-5 to 1e-3, with 16 bits in either 0.005 to 0.03.
_LIMIT_FP32 = 0.02
_LIMIT = 0.2
_ALARM = 0.5  # fraction of the limit above which there is a notice
_LOOK_AT = (
    "Look at config.json (RoPE scaling, sliding window, tied embeddings), the tokenizer, --rollout.top_p and "
    "--rollout.temperature. Whether it is rounding shows in a short run with --megatron.param_dtype fp32 and "
    "--run.engine_dtype float32. --train.max_log_prob_diff 0 trains anyway."
)


class EngineGap:
    """Accumulates |log-probability of the engine - of the actor| over tokens.

    The first token of each run of actions does not count: engines never end a response with it (min_tokens 1), and
    therefore give the other tokens more probability.

    Attributes:
        sums: fp64 [2], the sum of distances and their count, on the device of the inputs.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64)

    def add(self, actor: torch.Tensor, engine: torch.Tensor, mask: torch.Tensor) -> None:
        """Add log-probabilities, [B, A] each, where `mask` is set."""
        later = mask.bool()
        later = torch.cat([torch.zeros_like(later[:, :1]), later[:, 1:] & later[:, :-1]], dim=1)
        distances = torch.where(later, (actor.detach() - engine).abs(), 0.0)
        # The values are not read here: on a GPU that would wait for the forward pass.
        added = torch.stack([distances.sum(dtype=torch.float64), later.sum(dtype=torch.float64)])
        self.sums = self.sums.to(added.device) + added


class GapWatch:
    """Checks the mean distance of each batch: above the limit, it stops the run in its first batch; above half of the
    limit, there is one notice per run.

    Args:
        args: OpenRLHF's nested arguments and ours, resolved for the device.
    """

    def __init__(self, args: NestedFlags) -> None:
        self._limit = limit_of(args)
        self._watches = not args.rollout.replay_dir  # a recording may be of any policy
        self._first = True
        self._told = False

    def watches(self, infos: Iterable[dict[str, float]]) -> bool:
        """Whether a batch can be checked: its samples must be from the weights that it is about to train.

        Args:
            infos: the samples' infos; `staleness` counts the updates since a sample was begun.
        """
        return self._watches and not any(info.get("staleness", 0.0) > 0 for info in infos)

    def check(self, total: float, tokens: float) -> None:
        """Check a batch before training on it.

        Args:
            total: sum of the distances over all ranks.
            tokens: the number of distances.

        Raises:
            EngineMismatch: it is the run's first batch, and its mean distance exceeds the limit.
        """
        if not self._first or not tokens:
            return
        self._first = False
        mean = total / tokens
        if self._limit is not None and not mean <= self._limit:
            raise EngineMismatch(
                f"the engines' log-probabilities are {mean:.3g} nats per token from the actor's in the run's first "
                f"batch (at most {self._limit:.3g} is expected): they do not compute the same model. Nothing was "
                f"trained. {_LOOK_AT}"
            )

    def notice(self, total: float, tokens: float) -> str | None:
        """A notice about a batch, if needed.

        Args:
            total: as in `check`.
            tokens: as in `check`.
        """
        if self._told or self._limit is None or not tokens or total / tokens <= _ALARM * self._limit:
            return None
        self._told = True
        return (
            f"warning: the engines' log-probabilities are {total / tokens:.3g} nats per token from the actor's, more "
            f"than rounding explains (vllm|actor; the first batch of a run may have {self._limit:.3g}). {_LOOK_AT}"
        )


def limit_of(args: NestedFlags) -> float | None:
    """The largest allowed mean distance, in nats per token, of a run's first batch; None for no limit.

    Both sides divide logits, with their errors, by the temperature. Engines report the distribution that they sample
    from: with top_p the likeliest tokens share the rest's probability, which adds at most -ln(top_p).
    """
    given = args.train.max_log_prob_diff
    if given is not None:
        return given or None
    own = args.megatron.param_dtype
    if args.actor.backend == "deepspeed":
        own = getattr(args.ds, "param_dtype", "bf16")  # not a flag in every version of OpenRLHF
    limit = _LIMIT_FP32 if own == "fp32" and args.run.engine_dtype == "float32" else _LIMIT
    temperature, top_p = args.rollout.temperature, args.rollout.top_p
    if not temperature > 0 or not 0 < top_p <= 1:
        return None
    return limit / min(1.0, temperature) - math.log(top_p)
