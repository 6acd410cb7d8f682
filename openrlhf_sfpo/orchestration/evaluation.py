"""The samples of an evaluation, and the standard errors of its metrics."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from openrlhf_sfpo.report.statistics import standard_errors

if TYPE_CHECKING:
    from openrlhf_sfpo.orchestration.openrlhf_types import Experience, PromptBatch


class Evaluated(NamedTuple):
    """The samples of an evaluation; those of one prompt are consecutive."""

    samples: "list[Experience]"
    per_prompt: int


def evaluation_errors(evaluated: Evaluated, eval_dataloader: "Iterable[PromptBatch]") -> dict[str, float]:
    """Standard errors of each data source's pass1, with names like OpenRLHF's evaluation metrics. Duplicates of a
    prompt count as one prompt with all their samples."""
    source_of = {
        prompt: source
        for sources, prompts, *_ in eval_dataloader
        for source, prompt in zip(sources, prompts, strict=True)
    }
    scores: dict[str, dict[str, list[float]]] = {}
    samples, per_prompt = evaluated
    for start in range(0, len(samples), per_prompt):
        group = samples[start : start + per_prompt]
        prompt = group[0].prompts[0]
        of_prompt = scores.setdefault(source_of.get(prompt, "unknown"), {}).setdefault(prompt, [])
        for sample in group:
            assert sample.rewards is not None
            of_prompt.append(sample.rewards[0].item())
    errors = {}
    for source, by_prompt in scores.items():
        errors[f"eval_{source}_prompts"] = float(len(by_prompt))
        for name, value in standard_errors(list(by_prompt.values())).items():
            errors[f"eval_{source}_pass1_{name}"] = value
    return errors
