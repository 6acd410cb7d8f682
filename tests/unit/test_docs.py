"""docs/check.py must find what is wrong, and the documentation's packages must fit into the environment of a run.

docs/build.sh checks that the documentation builds, and that its links and the flag reference are up to date.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from places import ROOT


@pytest.fixture
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_check", ROOT / "docs" / "check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("[a](other.md)", None),
        ("[a](other.md#a-heading-with-code)", None),
        ("[a](#here)", None),
        ("[a](https://example.org/nowhere)", None),
        ("`[a](nowhere.md)`", None),
        ("[a](nowhere.md)", "does not exist"),
        ("[a](other.md#nowhere)", "no such heading"),
        ("[a](#nowhere)", "no such heading"),
        ("[a](/other.md)", "is absolute"),
        ("![a](nowhere.png)", "does not exist"),
        ('[a](other.md "A title")', None),
        ('[a](nowhere.md "A title")', "does not exist"),
        ("[a][b]\n\n[b]: other.md", None),
        ("[a][b]\n\n[b]: nowhere.md", "does not exist"),
        ("[a][b]", "is not defined"),
        ("[a][]", "is not defined"),
        ('<a class="x" href="other.md#a-heading-with-code">a</a>', None),
        ('<a href="nowhere.md">a</a>', "does not exist"),
        ('<img src="nowhere.png" alt="">', "does not exist"),
    ],
)
def test_broken_links_are_found(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str, problem: str | None
) -> None:
    (tmp_path / "page.md").write_text(f"# Here\n\nText {link}\n")
    (tmp_path / "other.md").write_text("# A heading with `code`\n")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    found = list(check.broken_links())
    assert (problem is None) == (not found)
    assert problem is None or problem in found[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("`--sfpo.k 3`, `--sfpo.*`, all of `--sfpo.`, `--no-sfpo.enable` and `docker run --ipc host`", None),
        ("`--sfpo.kk 3`", "there is no flag --sfpo.kk"),
        ("a --sfp.k in text", "there is no flag --sfp.k"),
        ("`openrlhf-sfpo train`, and openrlhf-sfpo trains", None),
        ("`openrlhf-sfpo drain`", "there is no openrlhf-sfpo drain"),
        ("```bash\nopenrlhf-sfpo evaluate x\n```", "there is no openrlhf-sfpo evaluate"),
        ("`tests/run.sh`, `tests/*.py`, `cli/main.py`, `examples/NAME.sh`, `sfpo/alpha`, `RUN/config.yaml`", None),
        ("`tests/runs.sh`", "tests/runs.sh does not exist"),
        ("`tests/units/*.py`", "does not exist"),
        ("`cli/mine.py`", "cli/mine.py does not exist"),
        ("```bash\nbash examples/slow.sh\n```", "examples/slow.sh does not exist"),
        ("`cli/main.py:main`", None),
        ("`cli/main.py:mine`", "has no mine"),
    ],
)
def test_missing_things_that_a_page_mentions_are_found(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str | None
) -> None:
    for folder in ("docs", "examples", "openrlhf_sfpo/cli", "openrlhf_sfpo/sfpo", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "docs" / "flags.md").write_text("`--sfpo.k`, `--sfpo.enable`\n")
    (tmp_path / "openrlhf_sfpo" / "cli" / "main.py").write_text(
        'COMMANDS = {\n    "train": "train",\n}\ndef main(): ...\n'
    )
    (tmp_path / "tests" / "run.sh").touch()
    (tmp_path / "tests" / "conftest.py").touch()
    (tmp_path / "docs" / "page.md").write_text(f"# Page\n\n{text}\n")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    checks = (check.missing_names, check.missing_flags, check.missing_commands, check.missing_paths)
    found = [problem for one in checks for problem in one()]
    assert len(found) == (problem is not None), found
    assert problem is None or problem in found[0]


def test_external_loads_of_a_page_are_found(check: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "good.html").write_text('<a href="https://example.org">x</a><script src="own.js"></script>')
    assert not list(check.external_loads(tmp_path))
    (tmp_path / "bad.html").write_text('<script src="https://example.org/x.js"></script>')
    (tmp_path / "bad.css").write_text("a { background: url(//example.org/x.png) }")
    assert len(list(check.external_loads(tmp_path))) == 2


def test_shared_packages_have_the_same_version_in_all_lists() -> None:
    def pins(name: str) -> dict[str, str]:
        lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
        return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))

    ours = pins("docs.txt")
    for name in ("cpu-py311.txt", "cpu-py312.txt"):
        theirs = pins(name)
        shared = ours.keys() & theirs.keys()
        assert shared
        assert {package: ours[package] for package in shared} == {package: theirs[package] for package in shared}
