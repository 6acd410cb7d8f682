"""A trial call of a user's reward function, in a process of its own, before anything expensive is started."""

import json
import os
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from openrlhf_sfpo.system.errors import NotThere, UsageError
from openrlhf_sfpo.tasks.child_process import python_command
from openrlhf_sfpo.tasks.reward_files import NoFunction, split_spec
from openrlhf_sfpo.tasks.reward_results import WANTED, BadResult, NotFinite, read_result
from openrlhf_sfpo.tasks.rewards import load_reward

# The response in the trial: text such as models write.
_RESPONSE = " Let me think. <answer>42</answer> So the answer is \\boxed{42}."
_SIGNATURE = "It is called as {name}(queries, prompts, labels), each a list with one text."


@dataclass(frozen=True)
class Sample:
    """A row for the trial.

    Attributes:
        prompt, label: as the function will see them.
        source: its origin; None if it is made up, and thus possibly unsuitable for the function.
    """

    prompt: str
    label: Any
    source: str | None


class NotFiniteError(UsageError):
    """The function works, but returned NaN or infinity."""


MADE_UP = Sample("What is 6 * 7?", "42", None)


def try_reward(flag: str, spec: str, sample: Sample, seconds: float, skip: str) -> None:
    """Load a reward function and call it once.

    Args:
        flag: for errors.
        spec: FILE.py, FILE.py:FUNCTION or MODULE:FUNCTION.
        sample: the row to call it with.
        seconds: the time limit.
        skip: how to skip the trial, as a sentence.

    Raises:
        UsageError: it cannot be loaded, raises, or returns no rewards. `NotThere` if it could not reach a server,
            `NotFiniteError` if a reward or score is not finite.
    """
    try:
        found = _in_child(spec, sample, seconds)
    except subprocess.TimeoutExpired:
        problem = f"{spec} has not graded one sample within {seconds:g} s."
        raise UsageError(flag, problem, f"Make it faster. {skip}".strip()) from None
    source, name = split_spec(spec)
    stage, what = found["stage"], found["what"]
    if stage == "load":
        raise UsageError(flag, f"{source} cannot be loaded: {what}.", f"Fix it. {skip}".strip())
    if stage == "name":
        raise UsageError(flag, f"{what}.", f"Name a function of (queries, prompts, labels): {source}:FUNCTION.")
    if stage == "result":
        returned, _, wanted = what.partition(". ")
        raise UsageError(flag, f"{name} of {source} does not work on {_place(sample)}: {returned}.", f"{wanted}.")
    if stage == "not finite":
        returned, _, wanted = what.partition("; ")
        problem = f"{name} of {source} does not work on {_place(sample)}: {returned}, and {wanted}."
        raise NotFiniteError(flag, problem, "Return a number for every response, such as 0 for one without an answer.")
    if stage == "server":
        problem = f"{name} of {source} reaches no server: {what}."
        raise NotThere(flag, problem, f"Start the server. {skip}".strip())
    if stage == "died" or (stage == "call" and (sample.source is not None or found["signature"])):
        problem = f"{name} of {source} fails on {_place(sample)}: {what}."
        raise UsageError(flag, problem, f"Fix it. {_SIGNATURE.format(name=name)} {skip}".strip())


def _place(sample: Sample) -> str:
    return sample.source or "a made-up sample"


def _in_child(spec: str, sample: Sample, seconds: float) -> dict[str, Any]:
    """The result of `main` in a process of its own.

    Raises:
        subprocess.TimeoutExpired: there is none in time.
    """
    request = {"spec": spec, "sample": asdict(sample), "path": sys.path}
    read, write = os.pipe()
    with os.fdopen(read, encoding="utf-8") as answer:
        process = subprocess.Popen(
            python_command("openrlhf_sfpo.tasks.reward_trial", str(write)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(write,),
            start_new_session=True,
        )
        os.close(write)
        try:
            process.communicate(json.dumps(request).encode(), timeout=seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with processes that the function started
            status = process.wait()
        text = answer.readline()
    if text:
        return json.loads(text)
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return {"stage": "died", "what": f"its process ended with {how}", "signature": False}


def main(answer: int) -> None:
    """Run in the trial's process: read the request from standard input, write the result to a pipe."""
    request = json.loads(sys.stdin.buffer.read())
    sys.path[:] = request["path"]
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for the rest of the process
    os.set_inheritable(answer, False)
    found = _try(request["spec"], Sample(**request["sample"]))
    with os.fdopen(answer, "w", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    os._exit(0)  # regardless of threads that the user's code left running


def _try(spec: str, sample: Sample) -> dict[str, Any]:
    try:
        function = load_reward(spec)
    except NoFunction as error:
        return {"stage": "name", "what": str(error)}
    except BaseException as error:
        return {"stage": "load", "what": _described(error, spec)}
    try:
        result = function([sample.prompt + _RESPONSE], [sample.prompt], [sample.label])
    except BaseException as error:
        stage = "server" if _is_connection(error) else "call"
        return {"stage": stage, "what": _described(error, spec), "signature": _is_signature(error)}
    try:
        read_result(result, 1)
    except NotFinite as error:
        return {"stage": "not finite", "what": str(error)}
    except BadResult as error:
        return {"stage": "result", "what": str(error)}
    except Exception as error:
        return {"stage": "result", "what": f"{type(error).__name__} in what it returned ({error}). {WANTED}"}
    return {"stage": "", "what": ""}


def _described(error: BaseException, spec: str) -> str:
    """An exception in one line, with the line of the user's file that raised it."""
    text = " ".join(str(error).split()) if not isinstance(error, SyntaxError) else f"{error.msg} (line {error.lineno})"
    text = text if len(text) <= 300 else text[:297] + "..."
    name = os.path.basename(split_spec(spec)[0])
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if os.path.basename(frame.filename) == name]
    place = f" ({name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' * bool(text)}{text}{place}"


def _is_connection(error: BaseException | None) -> bool:
    """Whether a connection failed, by the names that common libraries give to such errors."""
    while error is not None:
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & {"ConnectionError", "ConnectError", "ClientConnectionError", "APIConnectionError", "URLError"}:
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_signature(error: BaseException) -> bool:
    """Whether the function does not accept the three arguments, so that none of its code ran."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, TypeError) and len(frames) == 1 and "argument" in str(error)
