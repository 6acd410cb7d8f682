"""`openrlhf-sfpo plan`: the memory that a run needs on each GPU, and the best layout for a number of GPUs."""

import json
import sys
from typing import TypeVar

from openrlhf_sfpo.system.errors import UsageError

_HELP = """usage: openrlhf-sfpo plan MODEL_DIR [--gpus N] [--gpu_memory_gb 80] [--json] [FLAGS OF openrlhf-sfpo train]

Works out the memory of a run on each GPU, phase by phase, the pipeline's bubble, the size of a weight transfer and of
a checkpoint, from a model directory's config.json (or that file) and the flags; needs no weights and no GPU.

  --gpus N            also which layouts fit N GPUs in nodes of 8, best first; with no flag that sets the actor's layout
                      the best of them is planned
  --gpu_memory_gb G   memory of a GPU in GiB (default 80)
  --json              print an object with the keys plan and suggestions; sizes are in bytes

The exit status is 0 if the plan fits, 1 if it does not, 2 for bad input."""

Default = TypeVar("Default", float, None)

GPU_MEMORY_GB = 80.0
# If any of these is given, its layout is planned instead of the best one.
_LAYOUT_FLAGS = {
    "actor.num_nodes",
    "actor.num_gpus_per_node",
    "megatron.tensor_model_parallel_size",
    "megatron.pipeline_model_parallel_size",
    "megatron.virtual_pipeline_model_parallel_size",
    "megatron.context_parallel_size",
    "megatron.recompute",
    "vllm.num_engines",
}


def main(argv: list[str] | None = None) -> int:
    """Plan; return the exit status: 0 if it fits, 1 if it does not, 2 for bad input."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or "-h" in words or "--help" in words:
        print(_HELP)
        return 0 if words else 2
    try:
        as_json = "--json" in words
        words = [word for word in words if word != "--json"]
        gpus, memory = _number(words, "--gpus", None), _number(words, "--gpu_memory_gb", GPU_MEMORY_GB)
        return _plan(words, None if gpus is None else int(gpus), memory, as_json)
    except UsageError as error:
        # The model is an argument of this command, while the code that reads it names the flag in errors.
        flag = "MODEL_DIR" if error.flag == "--actor.model_name_or_path" else error.flag
        print(f"openrlhf-sfpo plan: error: {flag}: {error.problem} {error.fix}", file=sys.stderr)
        return 2


def _number(words: list[str], flag: str, default: Default) -> float | Default:
    """The flag's value; removes the flag from the words."""
    for index, word in enumerate(words):
        name, _, text = word.partition("=")
        if name.replace("-", "_") == flag.replace("-", "_"):
            count = 1 if "=" in word else 2
            text = text if count == 1 else (words[index + 1] if index + 1 < len(words) else "")
            del words[index : index + count]
            try:
                value = float(text)
            except ValueError:
                raise UsageError(flag, f"is {text!r}, which is not a number.", "Give one above 0.") from None
            if not 0 < value < float("inf") or (flag == "--gpus" and value != int(value)):
                raise UsageError(flag, f"is {text}.", "Give a number above 0.")
            return value
    return default


def _plan(words: list[str], gpus: int | None, memory: float, as_json: bool) -> int:
    from openrlhf_sfpo.cli.flags import parse
    from openrlhf_sfpo.config.values import expanded
    from openrlhf_sfpo.plan.flags import model_at, planned
    from openrlhf_sfpo.plan.planner import make_plan
    from openrlhf_sfpo.plan.suggestion import suggestions
    from openrlhf_sfpo.plan.text import as_json as plan_json
    from openrlhf_sfpo.plan.text import as_text, suggestions_text

    if not words or words[0].startswith("-") or not words[0].strip():
        raise UsageError("MODEL_DIR", "is not given.", "Give a model directory or its config.json first.")
    flat, given = parse(words[1:])
    free = gpus is not None and not given & _LAYOUT_FLAGS
    if free:
        vars(flat)["vllm.num_engines"] = 1  # their number is part of the search
    model = model_at(expanded("MODEL_DIR", words[0]))
    if model.warning:
        print(model.warning, file=sys.stderr)
    setup = planned(flat, model, checks_layout=not free)
    found = suggestions(setup, gpus, memory) if gpus is not None else []
    plan = found[0] if free and found else None if free else make_plan(setup, memory)
    if as_json:
        result = {"plan": plan and plan_json(plan), "suggestions": [plan_json(one) for one in found]}
        print(json.dumps(result, indent=1))
    else:
        parts = [as_text(plan)] if plan is not None else []
        if gpus is not None:
            parts.insert(0 if free else 1, suggestions_text(found, gpus))
        print("\n\n".join(parts))
    return 0 if plan is not None and plan.fits else 1
