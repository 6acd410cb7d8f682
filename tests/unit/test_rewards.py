"""Reward functions: what files may look like, what they may return, and the trial before a run."""

import math
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from openrlhf_sfpo.runs.reward_check import check_rewards, try_rewards
from openrlhf_sfpo.system.errors import NotThere, UsageError
from openrlhf_sfpo.tasks import rewards
from openrlhf_sfpo.tasks.reward_files import split_spec
from openrlhf_sfpo.tasks.reward_results import BadResult, read_result
from openrlhf_sfpo.tasks.reward_trial import MADE_UP, Sample, try_reward

ROW = Sample("2 + 2 =", "4", "line 1 of train.jsonl")
SKIP = "--run.reward_trial 0 skips this trial."
POOL = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def one(query):
    return float(len(query) > 0)

def reward_func(queries, prompts, labels):
    with ProcessPoolExecutor(1, mp_context=get_context({method!r})) as pool:
        return {{"rewards": list(pool.map(one, queries))}}
"""


def write(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return str(path)


def write_reward(path: Path, body: str, name: str = "reward_func") -> str:
    return write(path, f"def {name}(queries, prompts, labels):\n" + textwrap.indent(textwrap.dedent(body), "    "))


# Files that `python FILE.py` would run, by name.
FILES = {
    "a_dataclass.py": """
        from __future__ import annotations
        from dataclasses import dataclass

        @dataclass
        class Answer:
            value: float
            parts: list[Answer]

        def reward_func(queries, prompts, labels):
            return [Answer(1.0, []).value]
        """,
    "a_forked_pool.py": POOL.format(method="fork"),
    "a_spawned_pool.py": POOL.format(method="spawn"),
    "math.py": POOL.format(method="fork"),  # a name of the standard library's
    "with-hyphen v1.2.py": POOL.format(method="fork"),
    "annotated.py": "reward_func: object = lambda queries, prompts, labels: [1.0]",
    "an_object.py": """
        class Reward:
            def __call__(self, queries, prompts, labels):
                return [1.0]
        reward_func = Reward()
        """,
    "a_try.py": """
        try:
            from no_such_module import reward_func
        except ImportError:
            def reward_func(queries, prompts, labels):
                return [1.0]
        """,
    "an_if.py": """
        if len("a") == 1:
            def reward_func(queries, prompts, labels, **others):
                return [1.0]
        """,
    "beside.py": """
        from helper_beside_it import reward_func
        """,
    "beside_late.py": """
        def reward_func(queries, prompts, labels):
            from helper_beside_it import reward_func
            return reward_func(queries, prompts, labels)
        """,
    "a_star.py": "from helper_beside_it import *",
    "main_guard.py": """
        import sys
        def reward_func(queries, prompts, labels):
            return [1.0]
        if __name__ == "__main__":
            sys.exit("not a program")
        """,
    "talkative.py": """
        print("loading")
        def reward_func(queries, prompts, labels):
            print("x" * 200_000)
            return [1.0]
        """,
    "pickled.py": """
        import pickle
        class Answer:
            pass
        def reward_func(queries, prompts, labels):
            return [float(type(pickle.loads(pickle.dumps(Answer()))) is Answer)]
        """,
    "its_own_path.py": """
        from pathlib import Path
        WORDS = Path(__file__).with_name("helper_beside_it.py").read_text()
        def reward_func(queries, prompts, labels):
            return [1.0]
        """,
}


@pytest.mark.parametrize("name", FILES)
def test_files_load_as_python_loads_them(name: str, tmp_path: Path) -> None:
    write_reward(tmp_path / "helper_beside_it.py", "return [1.0]")
    spec = write(tmp_path / name, FILES[name])
    rewards.check_reward(spec)
    try_reward("--f", spec, ROW, 60, SKIP)
    if not name.startswith("beside"):  # sys.modules of this process would keep the first helper
        assert rewards.CheckedReward(spec)(["2+2=4"], ["2+2="], ["4"])["rewards"] == 1.0


@pytest.mark.parametrize(
    "content",
    [
        "# -*- coding: latin-1 -*-\nNAME = 'é'\ndef reward_func(q, p, l):\n    return [float(len(NAME))]\n".encode(
            "latin-1"
        ),
        b"\xef\xbb\xbfdef reward_func(q, p, l):\n    return [1.0]\n",
        b"def reward_func(q, p, l):\r\n    return [1.0]\r\n",
    ],
    ids=["latin-1", "BOM", "CRLF"],
)
def test_files_may_declare_their_encoding(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "encoded.py").write_bytes(content)
    rewards.check_reward(str(tmp_path / "encoded.py"))
    assert rewards.load_reward(str(tmp_path / "encoded.py"))(["q"], ["p"], ["l"]) == [1.0]


def test_two_files_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = write_reward(tmp_path / "a" / "same_name.py", "return [1.0]")
    second = write_reward(tmp_path / "b" / "same_name.py", "return [2.0]")
    functions = [rewards.load_reward(spec) for spec in (first, second)]
    assert [function([""], [""], [""]) for function in functions] == [[1.0], [2.0]]


def test_a_directory_of_files_does_not_stand_in_for_libraries(tmp_path: Path) -> None:
    """`python FILE.py` searches the file's directory first; a process that imports other modules later must not."""
    (tmp_path / "wave.py").write_text("FAKE = True\n")
    spec = write_reward(tmp_path / "one_of_many.py", "return [1.0]")
    rewards.load_reward(spec)
    import wave

    assert not hasattr(wave, "FAKE")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("a.py", ("a.py", "reward_func")),
        ("a.py:f", ("a.py", "f")),
        ("/x:y/a.py", ("/x:y/a.py", "reward_func")),
        ("/x:y/a.py:f", ("/x:y/a.py", "f")),
        ("package.module:f", ("package.module", "f")),
        ("package.module", ("package.module", "reward_func")),
    ],
)
def test_names_of_functions(spec: str, parts: tuple[str, str]) -> None:
    assert split_spec(spec) == parts


def test_rewards_load_from_modules() -> None:
    assert rewards.load_reward("math") is rewards.math_reward
    assert rewards.load_reward("openrlhf_sfpo.tasks.rewards:math_reward") is rewards.math_reward


@pytest.mark.parametrize("spec", ["math", "http://host:1/score", "openrlhf_sfpo.tasks.rewards:math_reward"])
def test_good_rewards_pass_the_check(spec: str) -> None:
    rewards.check_reward(spec)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"rewards": [0.5, 1]}, [0.5, 1.0]),
        ({"rewards": torch.tensor([0.5, 1.0]), "scores": None, "extra_logs": None}, [0.5, 1.0]),
        ({"rewards": np.array([[0.5], [1.0]])}, [0.5, 1.0]),
        ({"rewards": [torch.tensor(0.5), np.float32(1.0)]}, [0.5, 1.0]),
        ([0.5, True], [0.5, 1.0]),
        ((0.5, 1), [0.5, 1.0]),
        (torch.tensor([0.5, 1.0]), [0.5, 1.0]),
        (np.array([0.5, 1.0]), [0.5, 1.0]),
        ((value / 2 for value in (1, 2)), [0.5, 1.0]),
    ],
)
def test_what_a_reward_may_return(result: Any, expected: list[float]) -> None:
    read = read_result(result, 2)
    assert read.rewards == read.scores == expected
    assert all(type(value) is float for value in read.rewards)


@pytest.mark.parametrize("result", [0.5, np.float32(0.5), torch.tensor(0.5), {"rewards": 0.5}, [0.5]])
def test_a_number_for_one_sample(result: Any) -> None:
    assert read_result(result, 1).rewards == [0.5]


async def _coroutine() -> list[float]:
    return [1.0]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "it returned None (is a return missing?)"),
        ({}, "a dictionary without 'rewards' (it has no keys)"),
        ({"score": [1.0]}, "it has 'score'; is 'score' meant?"),
        ([1.0, 2.0], "2 'rewards' for 1 sample"),
        ([], "0 'rewards' for 1 sample"),
        (["1.0"], "'1.0' (str)"),
        ("1.0", "'1.0' (str)"),
        ([None], "None"),
        ([{"score": 1.0}], "(dict)"),
        ([[1.0, 2.0]], "(list)"),
        ({1.0}, "(set)"),
        (1j, "(complex)"),
        (object, "(type)"),
        ([math.nan], "rewards must be finite"),
        ({"rewards": [1.0], "scores": [math.inf]}, "rewards must be finite"),
        ({"rewards": [1.0], "extra_logs": [1.0]}, '"extra_logs" as [1.0] (list)'),
        ({"rewards": [1.0], "extra_logs": {"answer": ["4"]}}, "Only numbers can be logged"),
    ],
)
def test_what_a_reward_may_not_return(result: Any, message: str) -> None:
    with pytest.raises(BadResult) as caught:
        read_result(result, 1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_async_function_is_explained() -> None:
    with pytest.raises(BadResult, match="a coroutine: it is an async function"):
        read_result(_coroutine(), 1)


# Files that the trial refuses, with what it says.
BROKEN = {
    "raises": (
        "raise KeyError('gone')",
        "reward_func of {path} fails on line 1 of train.jsonl: KeyError: 'gone' (raises.py, ",
    ),
    "returns_nothing": ("pass", 'it returned None (is a return missing?). Return {{"rewards": ['),
    "exits": ("import os; os._exit(3)", "its process ended with exit status 3"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "its process ended with SIGSEGV"),
    "hangs": ("import time; time.sleep(600)", "{path} has not graded one sample within 3 s."),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_trial_refuses(name: str, tmp_path: Path) -> None:
    body, message = BROKEN[name]
    spec = write_reward(tmp_path / f"{name}.py", body)
    with pytest.raises(UsageError) as caught:
        try_reward("--f", spec, ROW, 3 if name == "hangs" else 60, SKIP)
    assert message.format(path=spec) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (SKIP in str(caught.value)) == (name != "returns_nothing"), "which would fail in the run, too"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module_x\nreward_func = print\n", "cannot be loaded: ModuleNotFoundError: No module named"),
        (
            "reward_func = 3\n",
            "broken.py is not a function but int (3). Name a function of (queries, prompts, labels): ",
        ),
        ("class reward_func:\n    pass\n", "reward_func of {path} is not a function but a class. Name a function"),
        ("reward_func = None\n", "{path} does not define reward_func. Name a function"),
        ("async def reward_func(q, p, l):\n    return [1.0]\n", "a coroutine"),
        (
            "def reward_func(completions, **others):\n    return [1.0]\n",
            "It is called as reward_func(queries, prompts, labels)",
        ),
        ("from openrlhf_sfpo.tasks import no_such\nreward_func = print\n", "ImportError"),
    ],
)
def test_the_trial_refuses_files(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        try_reward("--f", write(tmp_path / "broken.py", text), MADE_UP, 60, SKIP)
    assert message.format(path=tmp_path / "broken.py") in str(caught.value)
    assert (SKIP in str(caught.value)) == ("Name a function" not in message and "coroutine" not in message)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_the_trial_refuses_numbers_that_are_not_finite(value: str, tmp_path: Path) -> None:
    found: Any = SimpleNamespace(first=lambda: ("2+2=", 4, "train.jsonl, line 1"), notes=[])
    spec = write_reward(tmp_path / "divides.py", f"return [float('{value}')]")
    with pytest.raises(UsageError) as caught:
        try_reward("--f", spec, ROW, 60, SKIP)
    assert f"'rewards' = [{value}], and rewards must be finite numbers." in str(caught.value)
    assert SKIP not in str(caught.value)
    with pytest.raises(UsageError, match=r"line 1: it returned .* or give --train\.on_nonfinite skip"):
        try_rewards(flags(reward__remote_url=spec), found)
    assert not found.notes
    try_rewards(flags(reward__remote_url=spec, train__on_nonfinite="skip"), found)
    (note,) = found.notes
    assert f"it returned 'rewards' = [{value}]" in note and "--train.on_nonfinite skip" in note


def test_numbers_other_than_the_reward_need_not_be_finite(tmp_path: Path) -> None:
    spec = write_reward(tmp_path / "logs.py", "return {'rewards': [1.0], 'extra_logs': {'x': [float('nan')]}}")
    try_reward("--f", spec, ROW, 60, SKIP)
    assert rewards.CheckedReward(spec)(["q"], [""], ["l"])["rewards"] == 1.0


def test_the_trial_with_a_made_up_sample_forgives_what_the_label_may_explain(tmp_path: Path) -> None:
    spec = write_reward(tmp_path / "nested.py", "import json; return [json.loads(labels[0])['value']]")
    try_reward("--f", spec, MADE_UP, 60, SKIP)
    with pytest.raises(UsageError, match="TypeError"):
        try_reward("--f", spec, ROW, 60, SKIP)


def test_a_server_that_is_not_started_yet_is_still_to_do(tmp_path: Path) -> None:
    body = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')"
    with pytest.raises(NotThere, match="reaches no server"):
        try_reward("--f", write_reward(tmp_path / "judge.py", body), ROW, 60, SKIP)


def test_processes_of_the_trial_end_with_it(tmp_path: Path) -> None:
    import psutil

    body = f"""
    import subprocess
    child = subprocess.Popen(["sleep", "600"])
    open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
    return [1.0]
    """
    try_reward("--f", write_reward(tmp_path / "starts.py", body), ROW, 60, SKIP)
    try:
        left = psutil.Process(int((tmp_path / "pid").read_text()))
    except psutil.NoSuchProcess:
        return
    alive = psutil.wait_procs([left], timeout=30)[1]
    assert not alive or left.status() == psutil.STATUS_ZOMBIE


def flags(**values: Any) -> SimpleNamespace:
    """The nested flags that rewards depend on."""
    settings = {
        "reward": {"remote_url": None},
        "train": {"agent_func_path": None, "on_nonfinite": "stop"},
        "rollout": {"replay_dir": None},
        "run": {"reward_trial": 60.0},
        "data": {"prompt_dataset": "", "input_key": "prompt", "label_key": "label"},
    }
    for name, value in values.items():
        section, _, leaf = name.partition("__")
        settings[section][leaf] = value
    return SimpleNamespace(**{name: SimpleNamespace(**section) for name, section in settings.items()})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "--reward.remote_url: is not given"),
        ({"reward__remote_url": "maths"}, "'maths' is neither a built-in reward"),
        ({"reward__remote_url": "math,exact"}, "names 2 rewards"),
        ({"reward__remote_url": "/nowhere/x.py"}, "/nowhere/x.py does not exist"),
        ({"reward__remote_url": "{tmp}/directory.py"}, "is a directory"),
        ({"reward__remote_url": "{tmp}"}, "{tmp} is a directory. Give a Python file with reward_func(queries, prompts"),
        ({"reward__remote_url": "{tmp}/:grade"}, "is a directory. Give a Python file with grade(queries, prompts"),
        ({"reward__remote_url": "{tmp}/notes.txt"}, "notes.txt is a file whose name does not end with .py. Give"),
        ({"reward__remote_url": "{tmp}/syntax.py"}, "is not valid Python ('(' was never closed (syntax.py, line 1))"),
        ({"reward__remote_url": "{tmp}/other.py"}, "does not define reward_func"),
        ({"train__agent_func_path": "/nowhere/x.py"}, "--train.agent_func_path: /nowhere/x.py does not exist"),
        ({"train__agent_func_path": "{tmp}/other.py"}, "does not define AgentExecutor"),
    ],
)
def test_reward_flags_that_mean_nothing(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "directory.py").mkdir()
    write(tmp_path / "syntax.py", "def reward_func(")
    write(tmp_path / "notes.txt", "")
    write(tmp_path / "other.py", "def reward(queries, prompts, labels):\n    return [1.0]\n")

    def fill(value: Any) -> Any:
        return value.format(tmp=tmp_path) if isinstance(value, str) else value

    with pytest.raises(UsageError) as caught:
        check_rewards(flags(**{name: fill(value) for name, value in values.items()}))
    assert fill(message) in str(caught.value)


@pytest.mark.parametrize("url", ["http://a/score,http://b/score", "exact", "{tmp}/other.py:reward"])
def test_reward_flags_that_mean_something(url: str, tmp_path: Path) -> None:
    write(tmp_path / "other.py", "def reward(queries, prompts, labels):\n    return [1.0]\n")
    check_rewards(flags(reward__remote_url=url.format(tmp=tmp_path)))


def test_the_trial_uses_the_first_row_of_the_data(tmp_path: Path) -> None:
    found: Any = SimpleNamespace(first=lambda: ("2+2=", 4, "train.jsonl, line 1"))
    spec = write_reward(tmp_path / "wants_4.py", "assert labels == [4] and queries[0].startswith('2+2='); return [1.0]")
    try_rewards(flags(reward__remote_url=spec), found)
    spec = write_reward(tmp_path / "wants_5.py", "assert labels == [5]")
    with pytest.raises(UsageError, match=r"--reward\.remote_url: .* fails on train\.jsonl, line 1: AssertionError"):
        try_rewards(flags(reward__remote_url=spec), found)
    try_rewards(flags(reward__remote_url=spec, run__reward_trial=0.0), found)
    with pytest.raises(UsageError, match=r"is reasoning_gym, and train\.jsonl, line 1"):
        try_rewards(flags(reward__remote_url="reasoning_gym"), found)
    nothing: Any = SimpleNamespace(first=lambda: None)
    spec = write_reward(tmp_path / "made_up.py", "assert labels == ['42']; return [1.0]")
    try_rewards(flags(reward__remote_url=spec), nothing)


def test_math_works_off_the_main_thread() -> None:
    """OpenRLHF calls rewards in threads, where math-verify's own time limit cannot work."""
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(rewards.math_reward, [r"Q\boxed{1/4}"], ["Q"], ["0.25"]).result(timeout=120)
    assert result["rewards"] == [1.0]


def test_a_checked_reward_gives_openrlhf_plain_numbers(tmp_path: Path) -> None:
    spec = write_reward(
        tmp_path / "mine.py",
        """
        import torch
        return {"rewards": torch.tensor([0.5]), "scores": [1], "extra_logs": {"length": torch.tensor([7])}}
        """,
        name="mine",
    )
    reward = rewards.CheckedReward(f"{spec}:mine")
    assert reward(["q"], ["p"], ["l"]) == {"rewards": 0.5, "scores": 1.0, "extra_logs": {"length": 7.0}}
    assert reward.failure is None
    assert not isinstance(reward(["q"], ["p"], ["l"])["rewards"], torch.Tensor)


@pytest.mark.parametrize(
    ("body", "message", "traceback"),
    [
        ("raise KeyError('gone')", "KeyError: 'gone'", True),
        ("return {'rewards': [float('nan')]}", "rewards must be finite", False),
        ("return {'rewards': [1.0, 2.0]}", "2 'rewards' for 1 sample", False),
        ("return {'scores': [1.0]}", "without 'rewards'", False),
    ],
)
def test_a_checked_reward_remembers_what_went_wrong(tmp_path: Path, body: str, message: str, traceback: bool) -> None:
    reward = rewards.CheckedReward(write_reward(tmp_path / "bad.py", body))
    with pytest.raises((KeyError, ValueError)):
        reward(["q"], ["p"], ["l"])
    assert message in reward.failure
    assert "bad.py" in reward.failure
    assert ("Traceback" in reward.failure) == traceback


def test_built_in_rewards_see_the_response_and_others_the_query(tmp_path: Path) -> None:
    given = {"response": " 4", "raw": " 4<|im_end|>", "prompt": "2+2=", "label": "4"}
    assert rewards.CheckedReward("exact").of_response(**given)["rewards"] == 1.0
    body = "return [float(queries[0].removeprefix(prompts[0]) == ' 4<|im_end|>')]"
    spec = write_reward(tmp_path / "raw.py", body)
    assert rewards.CheckedReward(spec).of_response(**given)["rewards"] == 1.0
    many = [tuple(given.values()), ("5", "5", "2+2=", "4")]
    assert rewards.CheckedReward("exact").of_all(many).scores == [1.0, 0.0]
    assert rewards.CheckedReward(spec).of_all(many).scores == [1.0, 0.0]


def test_a_reward_that_does_not_return(tmp_path: Path) -> None:
    body = "time.sleep(0 if '4' in queries[0] else 5)\nreturn [float(threading.current_thread().ident)]"
    spec = write_reward(tmp_path / "slow.py", body)
    Path(spec).write_text("import threading\nimport time\n" + Path(spec).read_text(encoding="utf-8"), encoding="utf-8")
    reward = rewards.CheckedReward(spec, seconds=0.5)
    threads = {reward(["2+2=4"], ["2+2="], ["4"])["rewards"] for _ in range(100)}
    assert len(threads) < 100, "they are used again, with what the function keeps for each"
    began = time.monotonic()
    with pytest.raises(BadResult):
        reward(["2+3=5"], ["2+3="], ["5"])
    assert time.monotonic() - began < 5
    assert reward.failure is not None
    assert "has not graded a response within 0.5 s (--run.reward_timeout)" in reward.failure
    assert "begins with '5'" in reward.failure
