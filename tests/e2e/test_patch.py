"""`openrlhf-sfpo patch` on every version of OpenRLHF that there is a patch for, as pip installs it."""

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openrlhf_versions
import pytest
import torch
from openrlhf_versions import VERSIONS
from places import ROOT, SUPPORT
from reference import assert_same, recorded, updated_twice, with_old_log_probs
from tiny_models import make_model, make_samples, with_tokenizer

from openrlhf_sfpo.cli.patch import main
from openrlhf_sfpo.orchestration.patched import apply as patching

CLI = Path("openrlhf/cli/train_ppo_ray.py")
# Flags that OpenRLHF's own checks require.
COMPLETE = [
    *("--vllm.num_engines", "1"),
    *("--reward.remote_url", "x.py"),
    *("--algo.advantage.estimator", "group_norm"),
    *("--rollout.n_samples_per_prompt", "2"),
]
# Updates of one optimizer step, as the plain loop of deepspeed/test_zero.py makes them.
TRAINING = [
    *("--actor.num_gpus_per_node", "1"),
    *("--actor.adam.lr", "5e-5"),
    *("--actor.adam.weight_decay", "0.01"),
    *("--actor.lr_scheduler", "constant"),
    *("--rollout.batch_size", "6"),
    *("--train.batch_size", "12"),
    *("--train.micro_batch_size", "2"),
]
SFPO = ["--sfpo.enable", "--sfpo.k", "2", "--sfpo.alpha", "0.8", "--sfpo.gate", "off"]
SOURCE_TREES = [("version.txt", "0.11.2\n"), ("setup.py", 'setup(\n    version="0.11.2",\n)')]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openrlhf")


@pytest.fixture(params=VERSIONS)
def tree(request: pytest.FixtureRequest, downloads: Path, tmp_path: Path) -> Path:
    """An OpenRLHF in its own directory, which a test may change."""
    return openrlhf_versions.copy(openrlhf_versions.install(request.param, downloads), tmp_path)


@pytest.fixture
def newest(downloads: Path, tmp_path: Path) -> Path:
    return openrlhf_versions.copy(openrlhf_versions.install(VERSIONS[-1], downloads), tmp_path)


def contents(tree: Path) -> dict[Path, bytes]:
    return {path.relative_to(tree): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def test_there_are_patches_for_every_version_since_0_10_4() -> None:
    assert VERSIONS == ["0.10.4", "0.11.0", "0.11.1", "0.11.2"]


def test_patch_twice_check_and_revert(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(tree)
    assert main([str(tree), "--check"]) == 1
    assert "is not patched; the patch fits" in capsys.readouterr().out
    assert main([str(tree)]) == 0
    said = capsys.readouterr().out
    assert f"OpenRLHF {tree.name} in {tree} is patched" in said
    assert f"changed {CLI}" in said
    patched = contents(tree)
    assert {path for path in patched if patched[path] != before.get(path)} == {CLI}
    assert b"changed by openrlhf-sfpo" in patched[CLI], "a changed file says so (Apache License 2.0, section 4b)"
    assert main([str(tree), "--check"]) == 0
    assert main([str(tree)]) == 0
    assert "already patched: nothing to do" in capsys.readouterr().out
    assert contents(tree) == patched
    assert main([str(tree), "--revert"]) == 0
    assert contents(tree) == before
    assert main([str(tree), "--revert"]) == 0
    assert "is not patched: nothing to do" in capsys.readouterr().out


def test_a_file_edited_elsewhere_is_patched_and_reverted_to_the_byte(tree: Path) -> None:
    file = tree / CLI
    edited = file.read_bytes().replace(b"def train(args):\n", b"# mine\n# and mine\r\ndef train(args):\n")
    file.write_bytes(edited)
    assert main([str(tree)]) == 0
    assert main([str(tree), "--check"]) == 0
    assert main([str(tree), "--revert"]) == 0
    assert file.read_bytes() == edited


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"    args = parser.parse_args()\n", b'    parser.add_argument("--mine")\n    args = parser.parse_args()\n'),
        (b"    args = parser.parse_args()\n", b"    args = parser.parse_args()\n    args.mine = 1\n"),
        (b"    train(args)\n", b"    print(args)\n    train(args)\n"),
        (b"from datetime import datetime\n", b"import sys\nfrom datetime import datetime\nimport json\n"),
        (b"\n", b"\r\n"),
    ],
    ids=["a flag of one's own", "args changed", "before train", "imports", "CRLF"],
)
def test_edits_next_to_the_patch_stay(newest: Path, before: bytes, after: bytes) -> None:
    file = newest / CLI
    edited = file.read_bytes().replace(before, after)
    file.write_bytes(edited)
    assert main([str(newest)]) == 0
    patched = file.read_bytes()
    compile(patched, str(file), "exec")
    if after == b"\r\n":
        assert patched.count(b"\n") == patched.count(b"\r\n")
    assert main([str(newest), "--revert"]) == 0
    assert file.read_bytes() == edited


def patched_statements(tree: Path) -> tuple[ast.stmt, ast.stmt, ast.stmt]:
    """The three statements of a patched command line: the import, the flags, the training."""
    module = ast.parse((tree / CLI).read_text())
    (importing,) = (node for node in module.body if isinstance(node, ast.Try))
    main_block = next(node for node in module.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))
    (flags,) = (node for node in main_block.body if ast.unparse(node).startswith("if sfpo:"))
    return importing, flags, main_block.body[-1]


class Uninstalled:
    """A finder for which this package does not exist."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name == "openrlhf_sfpo":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_patched_openrlhf_works_as_before_without_this_package(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package may be uninstalled later, or be missing from the environment in which a source tree runs."""
    assert main([str(tree)]) == 0
    for name in [name for name in sys.modules if name.split(".")[0] == "openrlhf_sfpo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Uninstalled, *sys.meta_path])
    trained: list[str] = []
    scope: dict[str, Any] = {"train": trained.append, "args": "the arguments", "parser": None}
    for statement in patched_statements(tree):
        exec(compile(ast.Module([statement], []), "patched", "exec"), scope)
    assert trained == ["the arguments"]


def test_a_broken_installation_of_this_package_raises(newest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([str(newest)]) == 0
    monkeypatch.delitem(sys.modules, "openrlhf_sfpo.orchestration.patched.entry_point", raising=False)
    monkeypatch.delattr("openrlhf_sfpo.orchestration.patched.entry_point", raising=False)
    monkeypatch.setitem(sys.modules, "openrlhf_sfpo.config.checks", None)  # something that it imports
    with pytest.raises(ModuleNotFoundError, match=r"openrlhf_sfpo\.config\.checks"):
        exec(compile(ast.Module([patched_statements(newest)[0]], []), "patched", "exec"), {})


@pytest.mark.parametrize("installed", [True, False])
def test_an_environment_without_this_package_is_reported(
    newest: Path, tmp_path: Path, installed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python3*/site-packages")
    for part in newest.iterdir():
        part.rename(packages / part.name)
    if installed:
        (packages / "here.pth").write_text(f"{ROOT}\n")
    for option in ([], ["--check"]):
        assert main([str(packages), *option]) == 0
        assert ("has no openrlhf_sfpo" in capsys.readouterr().out) == (not installed)


def test_an_archive_is_not_patched(
    newest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", newest)
    assert main([archive]) == 2
    said = capsys.readouterr().err
    assert f"{archive} is a file" in said
    assert "import openrlhf_sfpo.orchestration.patched.import_hook" in said
    monkeypatch.syspath_prepend(archive)
    monkeypatch.delitem(sys.modules, "openrlhf", raising=False)  # as in a new process: another test has imported it
    assert main([]) == 2
    assert f"{archive} is a file" in capsys.readouterr().err


def test_a_file_edited_where_the_patch_goes_is_left_alone(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tree / CLI
    edited = file.read_bytes().replace(b"    args = parser.parse_args()\n", b"    args = parser.parse_args([])\n")
    file.write_bytes(edited)
    for option in ([], ["--revert"], ["--check"]):
        assert main([str(tree), *option]) == 2
        said = capsys.readouterr().err
        assert "neither as OpenRLHF" in said
        assert "change 2 of 3" in said
        assert "import openrlhf_sfpo.orchestration.patched.import_hook" in said
    assert file.read_bytes() == edited


def test_a_version_without_a_patch(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (metadata,) = tree.glob("openrlhf-*.dist-info/METADATA")
    metadata.write_text(metadata.read_text().replace(f"Version: {tree.name}", "Version: 0.9.9"))
    before = contents(tree)
    assert main([str(tree)]) == 2
    said = capsys.readouterr().err
    assert "0.9.9" in said
    assert ", ".join(VERSIONS) in said
    assert "import openrlhf_sfpo.orchestration.patched.import_hook" in said
    assert contents(tree) == before


@pytest.mark.parametrize(("name", "text"), SOURCE_TREES)
def test_a_source_tree(newest: Path, name: str, text: str) -> None:
    """A clone of the repository has no metadata; the package's own directory is accepted as well."""
    for metadata in newest.glob("openrlhf-*.dist-info/METADATA"):
        metadata.unlink()
    (newest / name).write_text(text)
    assert main([str(newest / "openrlhf")]) == 0
    assert main([str(newest), "--check"]) == 0


def test_places_without_an_openrlhf(newest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert "holds no OpenRLHF" in capsys.readouterr().err
    for metadata in newest.glob("openrlhf-*.dist-info/METADATA"):
        metadata.unlink()
    assert main([str(newest)]) == 2
    assert "does not say which version" in capsys.readouterr().err
    (newest / "version.txt").write_text(VERSIONS[-1])
    (newest / CLI).unlink()
    assert main([str(newest)]) == 2
    assert "is missing" in capsys.readouterr().err


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Drop root privileges, which bypass permissions."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_that_cannot_be_written(
    tree: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(tree)
    for directory in (tree, *tree.parents):
        if directory.stat().st_uid == os.getuid():
            directory.chmod(directory.stat().st_mode | 0o055)  # pytest's own directories are closed to others
    (tree / CLI).parent.chmod(0o555)
    request.getfixturevalue("as_nobody")
    assert main([str(tree)]) == 2
    assert "cannot be written (Permission denied)" in capsys.readouterr().err
    assert contents(tree) == before


def test_an_interrupted_patch_leaves_the_file_as_it_was(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(tree)

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(patching.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main([str(tree)])
    assert contents(tree) == before
    # An interruption without time to clean up leaves a temporary file, which must not be an obstacle.
    patching._temporary_sibling(tree / CLI).write_text("half")
    assert main([str(tree)]) == 0
    assert main([str(tree), "--revert"]) == 0
    assert contents(tree) == before


def run_python(tree: Path, *words: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), str(ROOT), str(SUPPORT)])}
    return subprocess.run(
        [sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Any]]:
    """A tiny model, and rollouts read from a file; the samples are also saved in the model's directory."""
    directory = tmp_path_factory.mktemp("recording")
    model = with_tokenizer(make_model(directory / "model", "qwen2"))
    samples = recorded(directory, with_old_log_probs(model, make_samples(12)))
    torch.save(samples, directory / "model" / "samples.pt")
    return model, samples


def train(tree: Path, model: str, *flags: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Make two updates with `openrlhf_training.py`; return its report and the weights."""
    target = tree / "weights.pt"
    words = [str(SUPPORT / "openrlhf_training.py"), model, str(Path(model) / "samples.pt"), str(target)]
    done = run_python(tree, *words, *COMPLETE, *TRAINING, *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), torch.load(target)


def assert_trains_as_before(tree: Path, model: str) -> None:
    """The patched command line must pass the same arguments to the same function as before, which starts the same
    actor, which trains to the same weights."""
    before, weights = train(tree, model)
    assert main([str(tree)]) == 0
    after, again = train(tree, model)
    assert after == before
    assert before["actor"].startswith("openrlhf.")
    assert weights.keys() == again.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_training_without_sfpo_is_the_same_to_the_bit(newest: Path, recording: tuple[str, list[Any]]) -> None:
    assert_trains_as_before(newest, recording[0])


@pytest.mark.slow
def test_every_version_trains_with_and_without_sfpo(tree: Path, recording: tuple[str, list[Any]]) -> None:
    model, samples = recording
    assert_trains_as_before(tree, model)
    said, weights = train(tree, model, *SFPO)
    assert said["actor"] == "openrlhf_sfpo.orchestration.deepspeed_actor"
    assert_same(weights, *updated_twice(model, [samples]))
    words = ["-m", "openrlhf.cli.train_ppo_ray", *COMPLETE, "--sfpo.enable"]
    done = run_python(tree, *words, "--sfpo.k", "-1")
    assert done.returncode == 2
    assert "--sfpo.k: is -1." in done.stderr
    done = run_python(tree, *words, "--ds.lora.rank", "8")
    assert done.returncode == 2
    assert "--ds.lora.rank: is 8, which SFPO on the DeepSpeed actor does not support." in done.stderr


@pytest.mark.slow
def test_openrlhfs_own_tests_pass_with_and_without_the_patch(newest: Path) -> None:
    results = []
    for patch in (False, True):
        if patch:
            assert main([str(newest)]) == 0
        done = run_python(
            newest, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", "tests"
        )
        results.append(done.stdout.strip().splitlines()[-1])
        assert done.returncode == 0, done.stdout[-3000:]
    assert [line.split(" passed")[0] for line in results] == ["221", "221"]
