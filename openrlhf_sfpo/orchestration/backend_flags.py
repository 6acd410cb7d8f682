"""Sets OpenRLHF's own flags for each actor backend."""

import math
from typing import Any


def for_megatron(values: dict[str, Any]) -> None:
    """Set the flags that OpenRLHF's code reads to match the Megatron actor; see `openrlhf_arguments.for_openrlhf`.

    Args:
        values: all flags by dotted name; changed in place.
    """
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
    """Set the flags that OpenRLHF's actor needs where flash-attention and bf16 may be missing.

    Args:
        values: all flags by dotted name; changed in place.
    """
    values["ds.attn_implementation"] = "sdpa"
    values["ds.param_dtype"] = values["megatron.param_dtype"]
