"""Reward functions that can be named in --reward.remote_url, and loading the user's own.

A reward function has OpenRLHF's signature, reward_func(queries, prompts, labels), lists of equal length (OpenRLHF
passes one sample at a time), and returns {"rewards": ..., "scores": ..., "extra_logs": {...}} with one number each.
"""

import ast
import functools
import importlib
import importlib.util
import math
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.tasks.answers import (
    expected_text,
    final_answer,
    last_boxed,
    last_integer,
    reasoning_gym_label,
    response_text,
)

FLAG = "--reward.remote_url"
RewardFunction = Callable[[list[str], list[str], list[str]], dict[str, Any]]


def last_integer_reward(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """1 if the last integer in the response is the label, else 0."""
    scores = []
    for query, prompt, label in zip(queries, prompts, labels, strict=True):
        expected = last_integer(expected_text(label))
        if expected is None:
            raise ValueError(f"the reward 'last_integer' needs a label with an integer, but this one is {label[:80]!r}")
        scores.append(float(last_integer(response_text(query, prompt)) == expected))
    return {"rewards": scores, "scores": scores}


def exact_reward(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """1 if the response is the label and nothing else, else 0."""
    scores = [
        float(response_text(query, prompt) == expected_text(label).strip())
        for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]
    return {"rewards": scores, "scores": scores}


def reasoning_gym_reward(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """reasoning-gym's own score, in [0, 1], of the answer found in the response."""
    scores = [
        _reasoning_gym_score(response_text(query, prompt), label)
        for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]
    return {"rewards": scores, "scores": scores}


def _reasoning_gym_score(response: str, label: str) -> float:
    parsed = reasoning_gym_label(label)
    if parsed is None:
        raise ValueError(
            "the reward 'reasoning_gym' needs labels made by a reasoning_gym:NAME data set, "
            f"but this one is {label[:80]!r}; for plain answers use 'math' or 'last_integer'"
        )
    entry = parsed["entry"]
    numeric = last_integer(str(entry["answer"])) is not None
    dataset = _scorer(parsed["dataset"], tuple(sorted(parsed["options"].items())))
    return float(dataset.score_answer(final_answer(response, numeric), entry))


@functools.cache
def _scorer(name: str, options: tuple[tuple[str, Any], ...]) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, **{**dict(options), "size": 1})


def math_reward(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """1 if math-verify finds the last \\boxed{} equal to the label, else 0."""
    boxed = [last_boxed(response_text(query, prompt)) for query, prompt in zip(queries, prompts, strict=True)]
    scores = [_equal(answer, expected_text(label)) for answer, label in zip(boxed, labels, strict=True)]
    return {
        "rewards": scores,
        "scores": scores,
        "extra_logs": {"boxed_rate": [float(answer is not None) for answer in boxed]},
    }


def math_boxed_reward(queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
    """As `math`, but a boxed wrong answer is worth 0.1: the SFPO authors' training reward."""
    result = math_reward(queries, prompts, labels)
    boxed = result["extra_logs"]["boxed_rate"]
    rewards = [max(score, 0.1 * found) for score, found in zip(result["scores"], boxed, strict=True)]
    return {**result, "rewards": rewards}


def _equal(answer: str | None, label: str) -> float:
    if answer is None:
        return 0.0
    if answer.strip() == label.strip():
        return 1.0
    return float(_math_verify_pool().submit(_verify, answer, label).result())


@functools.cache
def _math_verify_pool() -> ProcessPoolExecutor:
    """math-verify bounds its time with signals, which work in a process's main thread only; rewards run in others."""
    return ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))


def _verify(answer: str, label: str) -> bool:
    from math_verify import parse, verify

    return bool(verify(parse(f"${label}$"), parse(f"\\boxed{{{answer}}}")))


BUILTIN: dict[str, RewardFunction] = {
    "last_integer": last_integer_reward,
    "exact": exact_reward,
    "reasoning_gym": reasoning_gym_reward,
    "math": math_reward,
    "math_boxed": math_boxed_reward,
}


def check_reward(spec: str) -> None:
    """Check that a --reward.remote_url value names something, without running the user's code.

    Raises:
        UsageError: no such file, or the file does not define the function.
    """
    if spec in BUILTIN or spec.startswith(("http://", "https://")):
        return
    source, name = _split(spec)
    if not source.endswith(".py"):
        try:
            found = importlib.util.find_spec(source)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise UsageError(
                FLAG,
                f"{spec!r} is neither a file, a module:function, a URL nor a built-in reward.",
                f"Built in are {', '.join(BUILTIN)}.",
            )
        if not (found.origin or "").endswith(".py"):
            return  # a compiled module can only be asked by importing it
        source = found.origin
    path = Path(source)
    if not path.is_file():
        raise UsageError(FLAG, f"{path} does not exist.", "Give the path of a Python file.")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UsageError(FLAG, f"{path} is not valid Python ({error}).", "Mend it.") from None
    if name not in _defined_names(tree):
        raise UsageError(
            FLAG,
            f"{path} does not define {name}.",
            f"Define {name}(queries, prompts, labels), or name another function as {path}:FUNCTION.",
        )


def load_reward(spec: str) -> RewardFunction:
    """The function that a --reward.remote_url value names (not a URL)."""
    if spec in BUILTIN:
        return BUILTIN[spec]
    source, name = _split(spec)
    if source.endswith(".py"):
        module_spec = importlib.util.spec_from_file_location("openrlhf_sfpo_user_reward", source)
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
    else:
        module = importlib.import_module(source)
    return getattr(module, name)


class CheckedReward:
    """Calls a reward function, insists on one finite number per sample, and remembers the first failure.

    OpenRLHF logs a reward function's exception and goes on without a reward; whoever holds this object can look at
    `failure` and stop instead.

    Args:
        spec: see `load_reward`.
        finite: refuse NaN and infinity; without it they are the caller's business.
    """

    def __init__(self, spec: str, finite: bool = True) -> None:
        self.spec = spec
        self._finite = finite
        self.failure: str | None = None
        self._function = load_reward(spec)

    def __call__(self, queries: list[str], prompts: list[str], labels: list[str]) -> dict[str, Any]:
        try:
            result = self._function(queries, prompts, labels)
            checked = {
                key: _numbers(result[key], len(queries), key, self._finite)
                for key in ("rewards", "scores")
                if key in result
            }
            if "rewards" not in checked:
                raise ValueError(f"it returned {sorted(result)}, without 'rewards'")
            extra = (result.get("extra_logs") or {}).items()
            logs = {key: _numbers(values, len(queries), key, self._finite)[0] for key, values in extra}
            # OpenRLHF asks for one sample at a time and wants plain numbers back.
            return {**{key: values[0] for key, values in checked.items()}, "extra_logs": logs}
        except Exception:
            if self.failure is None:
                self.failure = f"The reward function {self.spec} failed:\n{traceback.format_exc()}"
            raise


def _numbers(values: Any, count: int, key: str, finite: bool) -> list[float]:
    """One float for each sample, from a list, tensor or (for one sample) a number."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Sequence):
        values = [values]
    numbers = [float(value) for value in values]
    if len(numbers) != count:
        raise ValueError(f"it returned {len(numbers)} {key!r} for {count} samples")
    if finite and not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"it returned {key!r} = {numbers}; rewards must be finite numbers")
    return numbers


def _split(spec: str) -> tuple[str, str]:
    source, _, name = spec.partition(":")
    return source, name or "reward_func"


def _defined_names(tree: ast.Module) -> set[str]:
    """Names that a module defines or imports at its top level."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(alias.asname or alias.name for alias in node.names)
    return names
