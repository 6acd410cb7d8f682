"""`openrlhf-sfpo doctor`."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_models import make_model
from tiny_runs import flags

from openrlhf_sfpo.cli import doctor as doctor_command
from openrlhf_sfpo.cli.flags import parse
from openrlhf_sfpo.config.namespaces import nested
from openrlhf_sfpo.doctor import examination, machine, packages, resources
from openrlhf_sfpo.system.ports import free_port


def run(*arguments: str, command: str = "doctor", **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "openrlhf_sfpo.cli.main", command, *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, env=os.environ | environment)


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {one["check"]: one for one in json.loads(done.stdout)}


def test_a_machine_on_which_everything_works(problems: Path, tmp_path: Path) -> None:
    done = run(*flags(tmp_path / "run", problems))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok") and "an all-reduce over 2 processes works" in line for line in lines)
    assert any("ok  megatron-core" in line for line in lines)
    assert any("data and reward are valid" in line for line in lines)
    assert lines[-1] == "nothing that would keep a run from working"
    assert not (tmp_path / "run").exists(), "nothing is changed"


def test_json_names_what_is_wrong_and_the_fix(problems: Path, tmp_path: Path) -> None:
    done = run("--json", *flags(tmp_path / "run", problems, sfpo__alpha=1.5))
    assert done.returncode == 1, done.stderr
    found = findings(done)
    assert found["--sfpo.alpha"] == {
        "check": "--sfpo.alpha",
        "state": "error",
        "found": "is 1.5.",
        "fix": "Use a number from 0 to 1; the paper uses 0.8.",
    }
    assert found["ray"] == {"check": "ray", "state": "ok", "found": version("ray"), "fix": ""}


def test_a_quick_check_during_a_run_computes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def computes(*args: Any) -> Any:
        raise AssertionError("not beside a run")

    for name in ("gpus", "collectives"):
        monkeypatch.setattr(examination, name, computes)
    assert doctor_command.main(["--quick"]) == 0
    assert {"Python", "torch", "GPU", "/dev/shm"} <= set(capsys.readouterr().out.split())
    assert doctor_command.main(["--quick", "--actor.num_gpus_per_node", "2"]) == 2
    assert "--quick: is given together" in capsys.readouterr().err


@pytest.mark.parametrize(("free", "state"), [(64 * 2**20, "error"), (2**30, "warning"), (16 * 2**30, "ok")])
def test_shared_memory_as_docker_gives_it_is_an_error(monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert machine.shared_memory(cuda=True).state == state


@pytest.mark.slow
def test_more_gpus_than_ray_has(problems: Path, tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_gpus": 1, "num_cpus": 2, "include_dashboard": False})
    try:
        done = run("--json", *flags(tmp_path / "run", problems, run__allow_open_ray=True), RAY_ADDRESS=cluster.address)
        refused = run("--json", *flags(tmp_path / "run", problems), RAY_ADDRESS=cluster.address)
        trained = run(
            *flags(tmp_path / "run", problems, run__allow_open_ray=True), command="train", RAY_ADDRESS=cluster.address
        )
    finally:
        cluster.shutdown()
    assert "without authentication" in findings(refused)["RAY_ADDRESS"]["found"]
    assert done.returncode == 1
    ray = findings(done)["Ray"]
    assert ray["state"] == "error"
    assert "2 GPUs are asked for; the cluster at" in ray["found"]
    assert "has 1, 1 of them free" in ray["found"]
    assert "--actor.num_gpus_per_node" in ray["fix"]
    assert trained.returncode == 2
    (line,) = [text for text in trained.stderr.splitlines() if text.startswith("openrlhf-sfpo train: error")]
    assert "ask for 2 GPUs together, but Ray has 1" in line
    assert "--actor.num_gpus_per_node" in line


def args_of(problems: Path, tmp_path: Path, model: Path, **changes: Any) -> Any:
    return nested(parse(flags(tmp_path / "run", problems, actor__model_name_or_path=model, **changes))[0])


@pytest.fixture
def large_model(tmp_path: Path) -> Path:
    """A model directory with the configuration of a 7B model."""
    path = make_model(tmp_path / "large", "qwen2", False)
    config = json.loads((path / "config.json").read_text())
    config |= {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}
    config |= {"num_attention_heads": 28, "num_key_value_heads": 4, "head_dim": 128, "layer_types": None}
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_model_that_is_too_large_for_disk_and_memory(problems: Path, tmp_path: Path, large_model: Path) -> None:
    assert resources.parameters_of(str(large_model)) == 7_615_616_512, "Qwen2.5-7B has so many"
    args = args_of(problems, tmp_path, large_model, ckpt__max_num=100_000)
    disk, *rest = resources.disk(args)
    assert disk.state in ("warning", "error")
    assert "a checkpoint has 85.1 GiB" in disk.found
    assert disk.fix
    assert not rest
    memory = resources.memory(args_of(problems, tmp_path, large_model, actor__num_gpus_per_node=64), cuda=False)
    assert memory.state == "error"
    assert "--actor.num_gpus_per_node" in memory.fix


def test_a_run_without_checkpoints_gets_a_warning(problems: Path, tmp_path: Path) -> None:
    *_, last = resources.disk(args_of(problems, tmp_path, problems / "model", ckpt__save_steps=-1))
    assert (last.check, last.state) == ("checkpoints", "warning")
    assert "--ckpt.save_steps" in last.fix


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_collectives_that_fail_name_the_backends_own_variable(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no route")

    monkeypatch.setattr("torch.multiprocessing.spawn", fail)
    found = machine.collectives(backend)
    assert found.state == "error" and "no route" in found.found
    assert f"{backend.upper()}_SOCKET_IFNAME" in found.fix
    assert ("NCCL_DEBUG" in found.fix) == (backend == "nccl")


def test_what_a_model_of_the_hub_needs_is_unknown(problems: Path, tmp_path: Path, large_model: Path) -> None:
    """With the DeepSpeed actor, which trains architectures that the Megatron actor does not know."""
    args = args_of(problems, tmp_path, large_model, ckpt__max_num=100_000)
    args.actor.backend = "deepspeed"
    assert "a checkpoint has 0.0 GiB" in next(iter(resources.disk(args))).found, "computed from the weights on disk"
    args.actor.model_name_or_path = "someone/unknown"
    assert list(resources.disk(args)) == []
    memory = resources.memory(args, cuda=True)
    assert memory.state == "ok" and "not known" in memory.found


def test_a_package_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "version", lambda name: "0.1" if name == "ray" else version(name))
    (wrong,) = [one for one in packages.packages("cpu") if one.state != "ok"]
    assert (wrong.check, wrong.found) == ("ray", "0.1, ==2.55.0 is needed")
    assert "pip install 'ray==2.55.0'" in wrong.fix


def test_places_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "prepare_command", lambda: None)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/proc/nowhere/vllm")
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("t" * 99)))
    found = {one.check: one for one in machine.directories()}
    assert found["temporary files"].state == "ok" and found["temporary files"].found == "below /tmp"
    assert found["home"].state == "warning" and "HOME" in found["home"].fix
    assert found["VLLM_CACHE_ROOT"].state == "error"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VLLM_CACHE_ROOT")
    assert [one.state for one in machine.directories()] == ["ok", "ok"]


def test_a_cluster_that_does_not_answer(problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    found = examination.check_command_line(parse(flags(tmp_path / "run", problems))[0])
    assert (found.check, found.state) == ("RAY_ADDRESS", "error")
    assert "nothing answers" in found.found
