"""Text is UTF-8 whatever the locale: no file may be read or written with the locale's encoding."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

PARTS = ("openrlhf_sfpo", "examples", "docker", "benchmarks", "requirements")
NOT_FILES = {"os", "Image", "webbrowser"}


def lacking(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that open, read or write text, or run a program for its text, without naming an encoding."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        runs = any(k.arg in ("text", "universal_newlines") and is_true(k.value) for k in node.keywords)
        whole = name in ("read_text", "write_text", "TextIOWrapper")
        opens = name in ("open", "fdopen") and not is_other(node) and "b" not in mode_of(node)
        if runs or whole or opens:
            yield node


def is_true(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def is_other(node: ast.Call) -> bool:
    owner = getattr(node.func, "value", None)
    return node.func.attr == "open" and isinstance(owner, ast.Name) and owner.id in NOT_FILES if owner else False


def mode_of(node: ast.Call) -> str:
    """The mode of an open call: of a path's, the first argument; of the function, the second."""
    of_path = isinstance(node.func, ast.Attribute) and node.func.attr == "open"
    places = [*node.args[0 if of_path else 1 :], *(k.value for k in node.keywords if k.arg == "mode")]
    return next((one.value for one in places if isinstance(one, ast.Constant) and isinstance(one.value, str)), "r")


@pytest.mark.parametrize("part", PARTS)
def test_every_file_is_opened_as_utf8(part: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{call.lineno}"
        for file in sorted((ROOT / part).rglob("*.py"))
        for call in lacking(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert found == []


IN_ANOTHER_LOCALE = """
import json, locale, sys
from pathlib import Path
assert "utf" not in locale.getpreferredencoding(False).lower(), locale.getpreferredencoding(False)
from openrlhf_sfpo.cli.flags import parse
from openrlhf_sfpo.report.run_writer import RunWriter
directory = Path(sys.argv[1])
values = vars(parse(["--config", str(directory / "run.yaml")])[0])
assert values["data.input_template"] == "\\u03a9 {}", values["data.input_template"]
sample = {"prompt": "1 \\u00f7 2", "response": "\\u00bd", "label": "\\u00bd", "reward": 1.0}
for step in (0, 1):  # the second time it is continued
    writer = RunWriter(directory, {"data.input_template": values["data.input_template"]}, step)
    writer.handle({"kind": "samples", "step": step + 1, "samples": [sample]})
    writer.handle({"kind": "step", "step": step + 1, "metrics": {}})
    writer.close("finished")
"""


@pytest.mark.parametrize("settings", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_settings_and_samples_in_another_locale(tmp_path: Path, settings: dict[str, str]) -> None:
    (tmp_path / "run.yaml").write_text("data.input_template: Ω {}\n", encoding="utf-8")
    command = [sys.executable, "-c", IN_ANOTHER_LOCALE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, **settings}, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert all('"prompt": "1 ÷ 2", "response": "½"' in line for line in lines)


@pytest.mark.parametrize("module", ["main", "train"])
def test_words_and_output_in_another_locale(tmp_path: Path, module: str) -> None:
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    place = tmp_path / "Ω.yaml"
    place.write_text("data.input_template: Ω\nsfpo.gate: ½\n", encoding="utf-8")
    words = ["train"] if module == "main" else []
    command = [sys.executable, "-m", f"openrlhf_sfpo.cli.{module}", *words, "--config", str(place)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, **settings}, timeout=120)
    assert done.returncode == 2
    assert f"--sfpo.gate: is '½' ({place}, line 2)." in done.stderr
