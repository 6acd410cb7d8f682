"""Sets OpenRLHF's own flags for each actor backend."""

import math
from typing import Any


def for_megatron(values: dict[str, Any]) -> None:
    """See `for_openrlhf`; `values` by dotted name, changed in place."""
    values["ds.tensor_parallel_size"] = math.prod(
        values[f"megatron.{kind}_size"]
        for kind in ("tensor_model_parallel", "context_parallel", "pipeline_model_parallel")
    )
    values["train.dynamic_batch_enable"] = False
    values["ds.packing_samples"] = False
    # A larger train batch means the whole rollout batch; otherwise OpenRLHF would count no step at all.
    samples = values["rollout.batch_size"] * values["rollout.n_samples_per_prompt"]
    values["train.batch_size"] = min(values["train.batch_size"], samples)


def for_deepspeed_on_cpu(values: dict[str, Any]) -> None:
    """The flags that OpenRLHF's actor needs without flash-attention and bf16."""
    values["ds.attn_implementation"] = "sdpa"
    values["ds.param_dtype"] = values["megatron.param_dtype"]
