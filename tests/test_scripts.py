"""The shell examples, Slurm and Ray jobs, and the container's scripts; what they start is real where it can be had."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from model_configs import CONFIGS, PARAMETERS, make_config

from openrlhf_sfpo.cli.flags import parse
from openrlhf_sfpo.doctor import parameters_of

EXAMPLES = ROOT / "examples"
# Every script that trains a model of the hub: they are called after it, in small letters.
TRAINING = sorted(path for path in EXAMPLES.glob("*.sh") if path.name not in ("quickstart.sh", "ray_job.sh"))
MODELS = {name.lower(): name for name in CONFIGS}
SHELL = sorted([*EXAMPLES.glob("*.sh"), *EXAMPLES.glob("*.sbatch"), *(ROOT / "docker").glob("*.sh")])
DISTILLED = {"rollout.max_new_tokens": 6144, "data.max_len": 8192, "vllm.gpu_memory_utilization": 0.7}
MATH = {"rollout.max_new_tokens": 2560, "data.max_len": 4096, "vllm.gpu_memory_utilization": 0.6}
# The authors' scripts: what is the same in all of them, and what is not.
PAPER = {
    "actor.adam.lr": 1e-6,
    "actor.adam.betas": [0.9, 0.999],
    "actor.adam.weight_decay": 0.01,
    "actor.lr_scheduler": "constant",
    "actor.lr_warmup_ratio": 0.0,
    "actor.max_norm": 1.0,
    "actor.eps_clip": 0.2,
    "actor.entropy_coef": 0.001,
    "algo.kl.init_coef": 0.0,
    "algo.advantage.estimator": "group_norm",
    "rollout.batch_size": 256,
    "rollout.n_samples_per_prompt": 8,
    "rollout.temperature": 1.0,
    "rollout.top_p": 1.0,
    "train.batch_size": 64 * 8,
    "train.max_epochs": 1,
    "sfpo.enable": True,
    "sfpo.k": 3,
    "sfpo.gate": "upper",
    "sfpo.gate_window": 30,
    "sfpo.gate_threshold": 1.0,
    "reward.remote_url": "math_boxed",
    "eval.steps": 5,
    "eval.n_samples_per_prompt": 4,
    "eval.temperature": 1.0,
}
PAPER_OF = {
    "qwen2.5-math-1.5b": {**MATH, "sfpo.alpha": 0.8},
    "qwen2.5-math-7b": {**MATH, "sfpo.alpha": 0.8},
    "deepseek-r1-distill-qwen-1.5b": {**DISTILLED, "sfpo.alpha": 0.8},
    "deepseek-r1-distill-qwen-7b": {**DISTILLED, "sfpo.alpha": 0.8},
    "qwen3-4b-base": {**DISTILLED, "sfpo.alpha": 0.9},
}


def stand_in(directory: Path, name: str, body: str) -> None:
    """A program on the PATH in place of one that is not here (Docker, Slurm, GPUs)."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (directory / name).chmod(0o755)


def environment(*first: Path, **more: str) -> dict[str, str]:
    """This process's, with our command and the given directories on the PATH."""
    path = os.pathsep.join([*map(str, first), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def words_of(script: Path, tmp_path: Path, *flags: str, **more: str) -> list[str]:
    """The command line that a script ends in."""
    stand_in(tmp_path / "bin", "openrlhf-sfpo", "printf '%s\\0' \"$@\"")
    command = ["bash", str(script), *flags]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(tmp_path / "bin", **more), timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_scripts_are_valid_and_can_be_executed(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert os.access(script, os.X_OK) or script.suffix == ".sbatch"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_models_are_those_that_were_published(name: str, tmp_path: Path) -> None:
    assert parameters_of(str(make_config(tmp_path, name))) == PARAMETERS[name]


def test_there_is_a_script_for_each_model() -> None:
    assert {script.stem for script in TRAINING} == set(MODELS)


@pytest.mark.parametrize("script", TRAINING, ids=lambda path: path.stem)
def test_dry_run(script: Path, tmp_path: Path) -> None:
    """With a model directory that holds config.json alone, the plan is made; downloads are what is left to do."""
    model = make_config(tmp_path, MODELS[script.stem])
    places = {"MODEL": str(model), "DATA": str(tmp_path / "data"), "RUN_DIR": str(tmp_path / "run")}
    command = ["bash", str(script), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**places), cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert MODELS[script.stem] in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("script", TRAINING, ids=lambda path: path.stem)
def test_settings(script: Path, tmp_path: Path) -> None:
    """Every flag exists; the paper's figures are the paper's; what is said around the script has the last word."""
    words = words_of(script, tmp_path, "--sfpo.k", "5", MODEL="/m/a b", DATA="/d", RUN_DIR="/r", NODES="4")
    assert words[0] == "train"
    flat, given = parse(words[1:])
    values = vars(flat)
    assert values["sfpo.k"] == 5
    assert (values["actor.model_name_or_path"], values["run.dir"]) == ("/m/a b", "/r")
    assert (values["data.prompt_dataset"], values["eval.dataset"]) == ("/d/train.jsonl", "/d/eval.jsonl")
    expected = {**PAPER, **PAPER_OF.get(script.stem, {}), "sfpo.k": 5}
    assert {key: values[key] for key in expected} == expected
    assert values["actor.num_nodes"] == 4
    gpus = values["vllm.num_engines"] * values["vllm.tensor_parallel_size"]
    if values["train.colocate_all"]:
        assert values["vllm.enable_sleep"] and values["ds.enable_sleep"]
        assert gpus == 4 * values["actor.num_gpus_per_node"] == 4 * 8
    else:
        assert values["train.async_enable"] and gpus + 4 * values["actor.num_gpus_per_node"] == 4 * 8
    assert values["train.max_tokens_per_gpu"] >= values["data.max_len"]
    assert not {"sfpo.preset", "ckpt.path"} & given


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A directory with a `docker` that prints its words, one a line."""
    stand_in(tmp_path / "bin", "docker", "printf '%s\\n' \"$@\"")
    return tmp_path / "bin"


def test_docker_run(container: Path, tmp_path: Path) -> None:
    more = {
        "WORKSPACE": str(tmp_path),
        "MODEL": "models/M",
        "NCCL_DEBUG": "INFO",
        "NAME": "one",
        "DOCKER_ARGS": "-d -q",
    }
    command = ["bash", str(ROOT / "docker" / "run.sh"), "qwen2.5-math-7b.sh", "--run.dir", "a b"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(container, **more))
    words = lines.stdout.splitlines()
    assert words[0] == "run"
    assert words[-4:] == ["openrlhf-sfpo", "qwen2.5-math-7b.sh", "--run.dir", "a b"]
    pairs = list(itertools.pairwise(words))
    for pair in (
        ("--gpus", "all"),
        ("--cap-add", "SYS_PTRACE"),
        ("--ulimit", "memlock=-1"),
        ("--volume", f"{tmp_path}:/workspace"),
        ("--env", "MODEL"),
        ("--env", "NCCL_DEBUG"),
        ("--name", "one"),
        ("-d", "-q"),
    ):
        assert pair in pairs, pair
    assert "--ipc=host" in words
    assert "DATA" not in words, "what is not set is not passed on"


def test_docker_build(container: Path) -> None:
    command = ["bash", str(ROOT / "docker" / "build.sh"), "--pull"]
    more = {"IMAGE": "mine:1", "MAX_JOBS": "8"}
    lines = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(container, **more))
    words = ["build", "--tag", "mine:1", "--build-arg", "CUDA_ARCHS=90", "--build-arg", "MAX_JOBS=8", "--pull"]
    assert lines.stdout.splitlines() == [*words, str(ROOT)]


@pytest.mark.parametrize(
    ("words", "status", "output"),
    [
        ([], 0, "usage: openrlhf-sfpo COMMAND"),
        (["doctor", "--help"], 0, "usage: openrlhf-sfpo doctor"),
        (["--actor.model_name_or_path", "/nowhere"], 2, "openrlhf-sfpo train: error:"),
        (["bash", "-c", "echo run as it is: $HOME"], 0, "run as it is: /"),
        (["qwen2.5-72b.sh", "--no-such-flag"], 2, "unrecognized arguments: --no-such-flag"),
    ],
)
def test_entrypoint(words: list[str], status: int, output: str) -> None:
    command = ["bash", str(ROOT / "docker" / "entrypoint.sh"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == status, done.stderr
    assert output in done.stdout + done.stderr


@pytest.mark.parametrize("status", [0, 1, 2])
def test_healthcheck_asks_once(status: int, tmp_path: Path) -> None:
    stand_in(tmp_path / "bin", "openrlhf-sfpo", f'echo "asked: $*" | tee -a {tmp_path}/asked; exit {status}')
    for _ in range(2):
        done = subprocess.run(
            ["bash", str(ROOT / "docker" / "healthcheck.sh")],
            capture_output=True,
            text=True,
            env=environment(tmp_path / "bin", TMPDIR=str(tmp_path)),
        )
        assert (done.returncode, done.stdout) == (min(status, 1), "asked: doctor\n")
    assert (tmp_path / "asked").read_text() == "asked: doctor\n"


def test_ray_job(tmp_path: Path) -> None:
    """What Ray is given to run is run, as Ray does it: joined to one string, by a shell, in another directory."""
    stand_in(
        tmp_path / "bin",
        "ray",
        f"[ \"$1 $2 $3 $4\" = 'job submit --address http://head:8265' ] || exit 9\n"
        f'exec {sys.executable} -c \'import os, subprocess, sys; os.chdir("/"); '
        'sys.exit(subprocess.call(subprocess.list2cmdline(sys.argv[1:]), shell=True))\' "${@:6}"',
    )
    (tmp_path / "a script.sh").write_text('printf "%s|" "$PWD" "$MODEL" "$NODES" "$@"\n')
    done = subprocess.run(
        ["bash", str(EXAMPLES / "ray_job.sh"), "a script.sh", "--data.input_template", "Q: {}", "--dry-run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(tmp_path / "bin", RAY_DASHBOARD="http://head:8265", MODEL="models/my model", NODES="4"),
    )
    assert done.stdout == f"{tmp_path}|models/my model|4|--data.input_template|Q: {{}}|--dry-run|", done.stderr


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """Slurm and Ray with two nodes, both played by this machine, which say what they do in `said`."""
    directory = tmp_path / "bin"
    said = f">>{tmp_path}/said"
    stand_in(directory, "scontrol", f'[ "$1" = show ] && printf "node1\\nnode2\\n" || echo "scontrol $*" {said}')
    stand_in(directory, "srun", 'while [[ "$1" == --* ]]; do shift; done; exec "$@"')
    stand_in(directory, "hostname", 'echo "10.0.0.1 10.0.0.2"')
    stand_in(
        directory,
        "ray",
        f'[ "$1" = status ] && {{ echo " 1 node_a"; echo " 1 node_b"; exit; }}\n'
        f'trap "echo ray ended {said}; exit" TERM; echo "ray $*" {said}; sleep 60 & wait',
    )
    return directory


@pytest.mark.parametrize(("cut_short", "srun"), [(False, ""), (True, ""), (True, "--container-image=i")])
def test_slurm(slurm: Path, tmp_path: Path, cut_short: bool, srun: str) -> None:
    """A run on two nodes; at SIGTERM to the batch script the run ends first and Ray after it."""
    up = f'until [ "$(grep -c "ray start" {tmp_path}/said)" = 2 ]; do sleep 0.1; done'
    ends = "sleep 60 & wait" if cut_short else "exit 3"
    (tmp_path / "run.sh").write_text(
        f'{up}; echo "run $RAY_ADDRESS $NODES $*" >>{tmp_path}/said\n'
        f'trap "sleep 0.3; echo checkpoint written >>{tmp_path}/said; exit 0" TERM\n{ends}\n'
    )
    batch = subprocess.Popen(
        ["bash", str(EXAMPLES / "slurm.sbatch"), "run.sh", "--sfpo.k", "3"],
        cwd=tmp_path,
        env=environment(slurm, SLURM_JOB_NODELIST="node[1-2]", SLURM_JOB_ID="7", REQUEUE="1", SRUN_ARGS=srun),
    )
    said = tmp_path / "said"
    if cut_short:
        while not (said.exists() and "run 10.0.0.1" in said.read_text()):
            assert batch.poll() is None
            time.sleep(0.1)
        time.sleep(0.2)
        batch.terminate()
    assert batch.wait(timeout=60) == (0 if cut_short else 3)
    until = time.monotonic() + 10
    while said.read_text().count("ray ended") < 2 and time.monotonic() < until:
        time.sleep(0.1)
    lines = said.read_text().splitlines()
    started = [line for line in lines if line.startswith("ray start")]
    assert sorted(started) == [
        "ray start --address=10.0.0.1:6379 --block",
        "ray start --head --node-ip-address=10.0.0.1 --port=6379 --dashboard-host=0.0.0.0 --block",
    ]
    ending = ["checkpoint written", "scontrol requeue 7"] if cut_short else []
    assert lines[2:] == ["run 10.0.0.1:6379 2 --sfpo.k 3", *ending, "ray ended", "ray ended"]
