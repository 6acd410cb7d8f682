"""docs/check.py finds what is wrong, and the documentation's packages fit into the environment of a run.

That the documentation builds, with every link and the flag reference up to date, is for docs/build.sh to say.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT


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
    ],
)
def test_links_that_lead_nowhere_are_found(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str, problem: str | None
) -> None:
    (tmp_path / "page.md").write_text(f"# Here\n\nText {link}.\n")
    (tmp_path / "other.md").write_text("# A heading with `code`\n")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    found = list(check.broken_links())
    assert (problem is None) == (not found)
    assert problem is None or problem in found[0]


def test_what_a_page_loads_from_elsewhere_is_found(check: ModuleType, tmp_path: Path) -> None:
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
