"""The program in a response, and the tests in a label.

A label is JSON text in one of three forms, those of Skywork-OR1's data set:

| form | a test passes if |
| --- | --- |
| `inputs`, `outputs` | the program, given an input as its standard input, writes the output |
| the same with `fn_name` | the function, or the method of `Solution`, returns the output for the input's arguments |
| `test_code`, `entry_point`, `import_prefix` | `check(entry_point)`, defined by the test code, does not raise |
| `assert_case` | the assertions hold after the program |
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_BLOCK = re.compile(
    r"^[ \t]*```[ \t]*(?:python|py|python3)[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE | re.IGNORECASE
)
_FORMS = ("inputs", "test_code", "assert_case")


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        request: what the program is asked, for `harness`.
        expected: the text it should write, or the value it should return; unused for assertions.
    """

    request: dict[str, Any]
    expected: Any = None


@dataclass(frozen=True)
class Suite:
    """The tests of a problem.

    Attributes:
        kind: "stdin", "call" or "assert".
        before: what is put before the program.
        cases: there is at least one.
    """

    kind: str
    before: str
    cases: Sequence[Case]


def program_of(response: str) -> str | None:
    """The last Python block of a response, after its reasoning if that ends with </think>; None without one."""
    blocks = _BLOCK.findall(response.rpartition("</think>")[2])
    return blocks[-1] if blocks else None


def has_tests(label: str) -> bool:
    """Whether a label has tests, rather than an answer."""
    try:
        found = json.loads(label) if label.lstrip().startswith("{") else None
    except ValueError:
        return False
    return isinstance(found, dict) and any(form in found for form in _FORMS)


def suite_of(label: str) -> Suite:
    """The tests in a label.

    Raises:
        ValueError: it has none, with what is wrong.
    """
    try:
        found = json.loads(label)
    except ValueError as error:
        raise ValueError(f"the label is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError("the label is not a JSON object with tests")
    if "inputs" in found:
        return _tests_by_output(found)
    if "test_code" in found:
        code = f"{found['test_code']}\ncheck({found.get('entry_point') or 'None'})\n"
        return Suite("assert", str(found.get("import_prefix") or ""), [Case({"code": code})])
    if "assert_case" in found:
        asserts = found["assert_case"]
        cases = [Case({"code": one}) for one in ([asserts] if isinstance(asserts, str) else asserts)]
        if not cases:
            raise ValueError("the label has no assertions")
        return Suite("assert", str(found.get("import_prefix") or ""), cases)
    raise ValueError(f"the label has none of {', '.join(_FORMS)}")


def _tests_by_output(found: dict[str, Any]) -> Suite:
    inputs, outputs, name = found["inputs"], found.get("outputs"), found.get("fn_name")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
        raise ValueError("the label's inputs and outputs are not lists of the same length")
    before = str(found.get("import_prefix") or "")
    if name:
        pairs = zip(inputs, outputs, strict=True)
        cases = [Case({"call": name, "arguments": _arguments(given)}, _value(output)) for given, output in pairs]
        return Suite("call", before, cases)
    texts = [
        ("\n".join(map(str, v)) if isinstance(v, list) else str(v) for v in pair)
        for pair in zip(inputs, outputs, strict=True)
    ]
    return Suite("stdin", before, [Case({"stdin": given}, output) for given, output in texts])


def _arguments(given: Any) -> list[Any]:
    """A call's arguments: a list, or one JSON value in each line of a text."""
    if isinstance(given, str):
        return [json.loads(line) for line in given.splitlines() if line.strip()]
    return given if isinstance(given, list) else [given]


def _value(output: Any) -> Any:
    """A call's expected value: text that is JSON stands for what it encodes."""
    try:
        return json.loads(output) if isinstance(output, str) else output
    except ValueError:
        return output


def same_text(written: str, expected: str) -> bool:
    """Whether two outputs are the same, but for spaces at the ends of lines and empty lines at the end; numbers may
    differ by a millionth if the expected one has decimals."""
    ours, theirs = _lines(written), _lines(expected)
    if ours == theirs:
        return True
    if len(ours) != len(theirs):
        return False
    return all(_same_line(one, other) for one, other in zip(ours, theirs, strict=True))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _same_line(ours: str, theirs: str) -> bool:
    a, b = ours.split(), theirs.split()
    return len(a) == len(b) and all(x == y or _near(x, y) for x, y in zip(a, b, strict=True))


def _near(written: str, expected: str) -> bool:
    if not re.fullmatch(r"[-+]?\d*\.\d+(?:[eE][-+]?\d+)?", expected):
        return False
    try:
        found, wanted = float(written), float(expected)
    except ValueError:
        return False
    return math.isfinite(found) and abs(found - wanted) <= 1e-6 * max(1.0, abs(wanted))


def same_value(returned: Any, expected: Any) -> bool:
    """Whether a function returned the expected value, or the only one of a list: data sets have both."""
    if returned == expected and isinstance(returned, bool) == isinstance(expected, bool):
        return True
    if isinstance(expected, list) and len(expected) == 1 and not isinstance(returned, list):
        return same_value(returned, expected[0])
    if isinstance(expected, list) and isinstance(returned, list):
        if len(expected) == 1 and len(returned) != 1 and isinstance(expected[0], list):
            return same_value(returned, expected[0])
        pairs = zip(returned, expected, strict=False)
        return len(returned) == len(expected) and all(same_value(one, other) for one, other in pairs)
    if isinstance(expected, float) and isinstance(returned, int | float) and not isinstance(returned, bool):
        return math.isclose(returned, expected, rel_tol=1e-6, abs_tol=1e-6)
    return False
