"""The list of what is replaced in other libraries: complete, right for the installed versions, and undone."""

import argparse
import ast
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from openrlhf_sfpo.cli import doctor
from openrlhf_sfpo.system import flash_attn_stub
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.replaced_names import RELIED_ON, REPLACEMENTS
from openrlhf_sfpo.system.replacements import CHECKED_VERSIONS, Reliance, Replacement, check, install, replaced

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "openrlhf_sfpo"
MECHANISM = PACKAGE / "system" / "replacements.py"
# The interpreter's own state, which is meant to be set.
OWN_STATE = {"sys.stdin", "sys.stdout", "sys.stderr", "tempfile.tempdir"}


def sources() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(PACKAGE.rglob("*.py"))]


def assigned_on_imports(tree: ast.Module) -> set[str]:
    """Attributes of imported names that a file assigns, or sets with setattr."""
    nodes = list(ast.walk(tree))
    imports = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    names = {(alias.asname or alias.name).split(".")[0] for alias in imports}
    found = set()
    for node in nodes:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [one for target in targets for one in (target.elts if isinstance(target, ast.Tuple) else [target])]
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
            targets = [ast.Attribute(node.args[0], "...", ast.Store())]
        for target in targets:
            base: Any = target
            while isinstance(base, ast.Attribute | ast.Call | ast.Subscript):
                base = base.func if isinstance(base, ast.Call) else base.value
            if isinstance(target, ast.Attribute) and isinstance(base, ast.Name) and base.id in names:
                found.add(ast.unparse(target))
    return found


def test_nothing_is_replaced_anywhere_else() -> None:
    stray = {
        f"{path.relative_to(ROOT)}: {name}"
        for path, tree in sources()
        if path != MECHANISM
        for name in assigned_on_imports(tree) - OWN_STATE
    }
    # Modules that the stand-in itself makes.
    assert {one for one in stray if "flash_attn_stub.py: sys.modules" not in one} == set()


def test_every_entry_is_used_and_every_use_is_an_entry() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.parent.name != "system")
    text += "".join((PACKAGE / "system" / name).read_text(encoding="utf-8") for name in ("loopback.py", "scratch.py"))
    text = text.replace('f"{shm_broadcast}.', '"vllm.distributed.device_communicators.shm_broadcast.')
    unused = {key for key in REPLACEMENTS if f'"{key}"' not in text}
    assert not unused
    used = set(re.findall(r'REPLACEMENTS\[\s*f?"([^"]+)"', text))
    assert used <= REPLACEMENTS.keys()


def test_the_installed_libraries_have_every_name_as_expected() -> None:
    flash_attn_stub.install_if_missing()
    check([*REPLACEMENTS.values(), *RELIED_ON])
    assert all(entry.reason and entry.scope and entry.by for entry in REPLACEMENTS.values())


@pytest.mark.parametrize("kind", ["renamed", "another signature"])
def test_a_library_that_changed_is_refused_before_anything_is_replaced(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (entry,) = (one for one in RELIED_ON if one.name == "_generate_vllm")
    owner = importlib.import_module("openrlhf.trainer.ppo_utils.samples_generator").SamplesGenerator
    if kind == "renamed":
        monkeypatch.delattr(owner, "_generate_vllm")
    else:
        monkeypatch.setattr(owner, "_generate_vllm", lambda self, prompts: None)
    with pytest.raises(UsageError, match=r"SamplesGenerator\._generate_vllm.*openrlhf==0\.11\.2"):
        check([entry])


def test_a_replacement_ends_with_its_block() -> None:
    entry = REPLACEMENTS["argparse.ArgumentParser.parse_args"]
    original = argparse.ArgumentParser.parse_args
    with pytest.raises(KeyError), replaced(entry, lambda self, args=None, namespace=None: namespace):
        assert argparse.ArgumentParser().parse_args([], None) is None
        raise KeyError
    assert argparse.ArgumentParser.parse_args is original


def test_a_name_that_is_missing_is_not_made() -> None:
    entry = Replacement("argparse.ArgumentParser", "parse_words", "ours", "a test", "here")
    with pytest.raises(UsageError, match=r"has no argparse\.ArgumentParser\.parse_words"):
        install(entry, lambda self: None)
    assert not hasattr(argparse.ArgumentParser, "parse_words")
    with pytest.raises(UsageError, match="no_module"):
        check([Reliance("argparse.no_module", "anything", None, "a test")])


def test_setup_asks_for_the_versions_that_were_checked() -> None:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    for name, works in CHECKED_VERSIONS.values():
        if name != "Python":
            assert re.search(rf'"{re.escape(name)}(\[\w+\])?=={re.escape(works)}"', text), name


def test_the_doctor_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--replaced", "--json"]) == 0
    found = {one["check"]: one for one in json.loads(capsys.readouterr().out)}
    assert found.keys() >= REPLACEMENTS.keys()
    assert {one["state"] for one in found.values()} == {"ok"}
    assert "TCPStore listens on all interfaces" in found["torch.distributed.rendezvous._create_c10d_store"]["found"]
    assert doctor.main(["--replaced", "--quick"]) == 2
