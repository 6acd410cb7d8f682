"""The graders of an evaluation: loaded and tried before sampling starts, and called after it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from openrlhf_sfpo.report.evaluation import Graded
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.tasks.answers import expected_text, last_integer, reasoning_gym_label
from openrlhf_sfpo.tasks.evaluation import Problem, grader_for
from openrlhf_sfpo.tasks.reward_trial import Sample, try_reward
from openrlhf_sfpo.tasks.rewards import BUILTIN, TIMEOUTS, CheckedReward, check_reward, is_url

FLAG = "--grader"
_TRIAL_SECONDS = 120.0
_NEEDS: dict[str, tuple[Callable[[str], object], str]] = {
    "reasoning_gym": (reasoning_gym_label, "is not of a reasoning_gym:NAME data set"),
    "last_integer": (lambda label: last_integer(expected_text(label)), "has no integer"),
}


@dataclass(frozen=True)
class Grades:
    """The result of grading: the responses with their scores, and how many could not be graded in time."""

    graded: list[Graded]
    timeouts: int


def check_grader(grader: str) -> None:
    """Check that a --grader value is valid, without running the grader.

    Raises:
        UsageError: it is not.
    """
    if is_url(grader):
        raise UsageError(FLAG, f"is {grader}, a server.", "Use FILE.py:FUNCTION with a function that calls it.")
    if grader != "auto":
        check_reward(grader, FLAG)


def load_graders(grader: str, sets: dict[str, list[Problem]], prompts: dict[str, str]) -> dict[str, CheckedReward]:
    """Load and try the grader of each data set.

    Args:
        grader: a --grader value; "auto" chooses for each set.
        sets: problems by the name of their data set.
        prompts: the prompt of each data set's first problem, as the model gets it.

    Raises:
        UsageError: a grader cannot be loaded, fails on a data set's first problem, or cannot use its labels.
    """
    loaded: dict[str, CheckedReward] = {}
    graders = {}
    for name, problems in sets.items():
        spec = grader_for(problems) if grader == "auto" else grader
        if spec in _NEEDS:
            usable, lack = _NEEDS[spec]
            bad = next((number for number, one in enumerate(problems, 1) if usable(one.label) is None), None)
            if bad is not None:
                label = problems[bad - 1].label[:40]
                raise UsageError(
                    FLAG, f"{spec} cannot grade {name}: the label of problem {bad}, {label!r}, {lack}.", ""
                )
        if spec not in loaded:
            if spec not in BUILTIN:
                sample = Sample(prompts[name], problems[0].label, f"the first problem of {name}")
                try_reward(FLAG, spec, sample, _TRIAL_SECONDS, "")
            loaded[spec] = CheckedReward(spec)
        graders[name] = loaded[spec]
    return graders


def grade(graders: dict[str, CheckedReward], sampled: list[Graded]) -> Grades:
    """Grade responses.

    Raises:
        Exception: from a grader.
    """
    graded = list(sampled)
    timeouts = 0
    for name, grader in graders.items():
        places = [place for place, one in enumerate(sampled) if one.set_name == name]
        mine = [sampled[place] for place in places]
        result = grader.of_all([(one.response, one.response + one.ending, one.prompt, one.label) for one in mine])
        timeouts += int(sum(result.extra_logs.get(TIMEOUTS, [])))
        for place, score in zip(places, result.scores, strict=True):
            graded[place] = replace(sampled[place], score=score)
    return Grades(graded, timeouts)
