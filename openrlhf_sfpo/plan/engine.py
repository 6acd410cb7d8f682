"""The vLLM engines: weights, and how much key/value cache fits in addition."""

from dataclasses import dataclass

from openrlhf_sfpo.plan.allowances import ENGINE
from openrlhf_sfpo.plan.setup import Setup


@dataclass(frozen=True)
class EnginePlan:
    """Bytes on each GPU of an engine.

    Attributes:
        taken: the memory that --vllm.gpu_memory_utilization gives it.
        weights: its weights.
        cache: the rest, for keys and values.
        token: keys and values of one token.
        tokens: how many fit into the cache.
        sequences: how many of --data.max_len tokens fit into it, per engine.
    """

    taken: int
    weights: int
    cache: int
    token: int
    tokens: int
    sequences: int

    @property
    def fits(self) -> bool:
        """Whether there is room for one sequence of full length, without which vLLM refuses to start."""
        return self.sequences >= 1


def engine(setup: Setup, gpu_bytes: int) -> EnginePlan:
    """The memory of an engine on each of its GPUs.

    Keys and values of a token: 2 x layers x key/value heads / TP (at least one per rank) x head size.
    """
    engines, model = setup.engines, setup.model
    taken = int(engines.utilization * gpu_bytes)
    weights = setup.count * engines.element // engines.tp
    heads = max(1, model.num_kv_heads // engines.tp)
    token = 2 * model.num_layers * heads * model.head_dim * engines.element
    cache = max(0, taken - weights - ENGINE)
    tokens = cache // token
    return EnginePlan(taken, weights, cache, token, tokens, tokens // setup.max_len)
