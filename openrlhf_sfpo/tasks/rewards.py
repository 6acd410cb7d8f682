"""Built-in reward functions for --reward.remote_url, and loading and calling the user's own.

A reward function has OpenRLHF's signature, reward_func(queries, prompts, labels), lists of equal length (OpenRLHF
passes one sample at a time), and returns {"rewards": ..., "scores": ..., "extra_logs": {...}} with one number each, or
just the rewards. A query is the prompt followed by the response, so that query.removeprefix(prompt) is the response.
"""

import importlib
import importlib.util
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.tasks import reward_files
from openrlhf_sfpo.tasks.answers import expected_text, last_boxed, reasoning_gym_label
from openrlhf_sfpo.tasks.code.grading import grade_programs
from openrlhf_sfpo.tasks.code.programs import has_tests, program_of
from openrlhf_sfpo.tasks.grading_pool import Outcome, shared_pool
from openrlhf_sfpo.tasks.integers import last_integer
from openrlhf_sfpo.tasks.responses import response_text
from openrlhf_sfpo.tasks.reward_results import BadResult, RewardResult, read_result

FLAG = "--reward.remote_url"
RewardFunction = Callable[[list[str], list[str], list[str]], Any]
# Metrics: the responses with a \boxed{}, and those that could not be graded in time and count as wrong.
BOXED = "boxed_rate"
PROGRAMS = "program_rate"
TIMEOUTS = "rollout/grading_timeout_rate"

# More than asyncio's threads, from which the calls come, so that none waits for another.
_CALLS_AT_A_TIME = 64


@dataclass(frozen=True)
class BuiltinReward:
    """A built-in reward function.

    Attributes:
        name: its name in --reward.remote_url.
        grade: grades responses, as text without prompt and special tokens, by their labels.
    """

    name: str
    grade: Callable[[Sequence[str], Sequence[str]], dict[str, Any]]

    def __call__(self, queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
        responses = [response_text(query, prompt) for query, prompt in zip(queries, prompts, strict=True)]
        return self.grade(responses, labels)


def _grade_last_integer(responses: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """1 if the last integer in the response is the label, else 0."""
    scores = []
    for response, label in zip(responses, labels, strict=True):
        expected = last_integer(expected_text(label))
        if expected is None:
            raise ValueError(f"the reward 'last_integer' needs a label with an integer, but this one is {label[:80]!r}")
        scores.append(float(last_integer(response) == expected))
    return {"rewards": scores, "scores": scores}


def _grade_exact(responses: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """1 if the response equals the label, else 0."""
    scores = [
        float(response.strip() == expected_text(label).strip())
        for response, label in zip(responses, labels, strict=True)
    ]
    return {"rewards": scores, "scores": scores}


def _grade_reasoning_gym(responses: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """reasoning-gym's own score, in [0, 1], of the answer found in the response."""
    for label in labels:
        if reasoning_gym_label(label) is None:
            raise ValueError(
                "the reward 'reasoning_gym' needs labels made by a reasoning_gym:NAME data set, "
                f"but this one is {str(label)[:80]!r}; for plain answers use 'math' or 'last_integer'"
            )
    outcomes = _in_pool("openrlhf_sfpo.tasks.reasoning_gym_scoring:score", responses, labels)
    scores = [outcome.value or 0.0 for outcome in outcomes]
    return {"rewards": scores, "scores": scores, "extra_logs": {TIMEOUTS: _timeouts(outcomes)}}


def _grade_math(responses: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """1 if math-verify finds the response's \\boxed{} equal to the label, else 0."""
    expected = [expected_text(label) for label in labels]
    outcomes = _in_pool("openrlhf_sfpo.tasks.math_grader:grade", responses, expected)
    scores = [float(not outcome.timed_out and outcome.value["correct"]) for outcome in outcomes]
    boxed = [
        float(last_boxed(response) is not None if outcome.timed_out else outcome.value["boxed"])
        for response, outcome in zip(responses, outcomes, strict=True)
    ]
    return {"rewards": scores, "scores": scores, "extra_logs": {BOXED: boxed, TIMEOUTS: _timeouts(outcomes)}}


def _grade_math_boxed(responses: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Like `math`, but 0.1 for a wrong answer in a box: the SFPO authors' training reward."""
    result = _grade_math(responses, labels)
    rewards = [
        max(score, 0.1 * found) for score, found in zip(result["scores"], result["extra_logs"][BOXED], strict=True)
    ]
    return {**result, "rewards": rewards}


def _grade_code(responses: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """1 if the response's program passes all of the label's tests, else 0."""
    programs = [program_of(response) for response in responses]
    verdicts = grade_programs(programs, labels)
    scores = [float(verdict.passed) for verdict in verdicts]
    found = [float(program is not None) for program in programs]
    timeouts = [float(verdict.timed_out) for verdict in verdicts]
    return {"rewards": scores, "scores": scores, "extra_logs": {PROGRAMS: found, TIMEOUTS: timeouts}}


def _grade_math_or_code(responses: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """`code` where the label has tests, and `math` where it has an answer: Skywork-OR1's reward."""
    scores, timeouts = [0.0] * len(responses), [0.0] * len(responses)
    coded = [has_tests(label) for label in labels]
    for grade, wanted in ((_grade_code, True), (_grade_math, False)):
        members = [index for index, one in enumerate(coded) if one == wanted]
        if members:
            found = grade([responses[index] for index in members], [labels[index] for index in members])
            pairs = zip(members, found["scores"], found["extra_logs"][TIMEOUTS], strict=True)
            for index, score, timeout in pairs:
                scores[index], timeouts[index] = score, timeout
    return {"rewards": scores, "scores": scores, "extra_logs": {TIMEOUTS: timeouts}}


def _in_pool(function: str, responses: Sequence[str], labels: Sequence[str]) -> list[Outcome]:
    return shared_pool().run(function, list(zip(responses, labels, strict=True)))


def _timeouts(outcomes: list[Outcome]) -> list[float]:
    return [float(outcome.timed_out) for outcome in outcomes]


last_integer_reward = BuiltinReward("last_integer", _grade_last_integer)
exact_reward = BuiltinReward("exact", _grade_exact)
reasoning_gym_reward = BuiltinReward("reasoning_gym", _grade_reasoning_gym)
math_reward = BuiltinReward("math", _grade_math)
math_boxed_reward = BuiltinReward("math_boxed", _grade_math_boxed)
code_reward = BuiltinReward("code", _grade_code)
math_or_code_reward = BuiltinReward("math_or_code", _grade_math_or_code)

BUILTIN: dict[str, BuiltinReward] = {
    one.name: one
    for one in (
        last_integer_reward,
        exact_reward,
        reasoning_gym_reward,
        math_reward,
        math_boxed_reward,
        code_reward,
        math_or_code_reward,
    )
}


# Those that run programs.
SANDBOXED = ("code", "math_or_code")


def is_url(spec: str) -> bool:
    """Whether a --reward.remote_url value is a reward server's address."""
    return spec.startswith(("http://", "https://"))


def check_reward(spec: str, flag: str = FLAG) -> None:
    """Check that a reward's name is valid, without running the user's code.

    Args:
        spec: a value of --reward.remote_url.
        flag: for errors.

    Raises:
        UsageError: the file does not exist or does not define the function.
    """
    if spec in BUILTIN or is_url(spec):
        return
    source, name = reward_files.split_spec(spec)
    path = Path(source)
    is_package = "/" not in source and (path / "__init__.py").is_file()
    if not source.endswith(".py") and path.exists() and not is_package:
        what = "a directory" if path.is_dir() else "a file whose name does not end with .py"
        raise UsageError(flag, f"{source} is {what}.", f"Give a Python file with {name}(queries, prompts, labels).")
    if not source.endswith(".py"):
        try:
            found = importlib.util.find_spec(source)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise UsageError(
                flag,
                f"{spec!r} is neither a built-in reward, FILE.py, MODULE:FUNCTION nor a URL.",
                f"Built in are {', '.join(BUILTIN)}.",
            )
        source = found.origin or ""
        if not source.endswith(".py"):
            return  # a compiled module can only be checked by importing it
    fix = f"Define {name}(queries, prompts, labels), or name another function as {source}:FUNCTION."
    reward_files.check_file(flag, Path(source), name, fix)


def load_reward(spec: str) -> RewardFunction:
    """The function that a --reward.remote_url value names (not a URL).

    Raises:
        Exception: from the user's file; `NoFunction` if it does not contain the function.
    """
    if spec in BUILTIN:
        return BUILTIN[spec]
    source, name = reward_files.split_spec(spec)
    module = reward_files.load_file(source) if source.endswith(".py") else importlib.import_module(source)
    found = reward_files.attribute(module, source, name)
    if isinstance(found, type):
        raise reward_files.NoFunction(f"{name} of {source} is not a function but a class")
    return found


class CheckedReward:
    """Calls a reward function, requires one finite number per sample, and remembers the first failure.

    OpenRLHF logs a reward function's exception and continues without a reward; a caller that holds this object can
    check `failure` and stop instead.

    Args:
        spec: see `load_reward`.
        finite: refuse NaN and infinity; otherwise the caller must handle them.
        seconds: time limit per response for a user's function; 0 for none. Built-in ones have their own.
    """

    def __init__(self, spec: str, finite: bool = True, seconds: float = 0) -> None:
        self.spec = spec
        self._finite = finite
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(_CALLS_AT_A_TIME, thread_name_prefix="reward")
        self.failure: str | None = None
        self._function = load_reward(spec)

    def __call__(self, queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
        """OpenRLHF's call, for one sample; returns plain numbers."""
        return self._for_openrlhf(lambda: self._in_time(queries, prompts, labels), len(queries))

    def of_response(self, response: str, raw: str, prompt: str, label: str) -> dict[str, Any]:
        """The same for one response with known text.

        Args:
            response: the text without special tokens, for built-in rewards.
            raw: the complete text, for other rewards.
            prompt: the prompt as text.
            label: the row's label.
        """
        function = self._function
        if isinstance(function, BuiltinReward):
            return self._for_openrlhf(lambda: function.grade([response.strip()], [label]), 1)
        return self([prompt + raw], [prompt], [label])

    def of_all(self, items: Sequence[tuple[str, str, str, str]]) -> RewardResult:
        """Rewards of many responses, each as in `of_response`. Functions that are not built in get them one by one, as
        in training.

        Raises:
            Exception: from the function.
            BadResult: its result is invalid.
        """
        if isinstance(self._function, BuiltinReward):
            graded = self._function.grade([item[0].strip() for item in items], [item[3] for item in items])
            return read_result(graded, len(items), self._finite)
        results = [
            read_result(self._function([prompt + raw], [prompt], [label]), 1, self._finite)
            for _, raw, prompt, label in items
        ]
        return RewardResult([one.rewards[0] for one in results], [one.scores[0] for one in results])

    def _in_time(self, queries: list[str], prompts: list[str], labels: list[str]) -> Any:
        """The function's result. A function that exceeds the time limit cannot be stopped; its thread is abandoned."""
        if not self._seconds or isinstance(self._function, BuiltinReward):
            return self._function(queries, prompts, labels)
        graded = self._threads.submit(self._function, queries, prompts, labels)
        if wait([graded], self._seconds).not_done:
            text = queries[0].removeprefix(prompts[0])
            raise BadResult(
                f"it has not graded a response within {self._seconds:g} s (--run.reward_timeout). "
                f"The response begins with {text[:100]!r}"
            )
        return graded.result()

    def _for_openrlhf(self, call: Callable[[], Any], count: int) -> dict[str, Any]:
        try:
            result = read_result(call(), count, self._finite)
        except BadResult as error:
            self.failure = self.failure or f"The reward function {self.spec} does not work: {error}."
            raise
        except Exception:
            self.failure = self.failure or f"The reward function {self.spec} failed:\n{traceback.format_exc()}"
            raise
        logs = {name: values[0] for name, values in result.extra_logs.items()}
        return {"rewards": result.rewards[0], "scores": result.scores[0], "extra_logs": logs}
