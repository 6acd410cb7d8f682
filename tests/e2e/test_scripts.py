"""The shell examples, Slurm and Ray jobs, and the container's scripts; what they start is real where possible."""

import itertools
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from model_configs import CONFIGS, PARAMETERS, make_config
from places import ROOT
from skywork_rows import write_skywork

from openrlhf_sfpo.cli import stages
from openrlhf_sfpo.cli.flags import parse
from openrlhf_sfpo.cli.main import COMMANDS
from openrlhf_sfpo.doctor.resources import parameters_of
from openrlhf_sfpo.system.ports import free_port

EXAMPLES = ROOT / "examples"
# Every script that trains a model from the Hub; each is named after it, in lower case.
TRAINING = sorted(
    path
    for path in EXAMPLES.glob("*.sh")
    if path.name not in ("quickstart.sh", "ray_job.sh") and not path.name.startswith("skywork")
)
MODELS = {name.lower(): name for name in CONFIGS}
SHELL = sorted(path for place in (EXAMPLES, EXAMPLES / "recipes", ROOT / "docker") for path in place.glob("*.s[hb]*"))
DISTILLED = {"rollout.max_new_tokens": 6144, "data.max_len": 8192, "vllm.gpu_memory_utilization": 0.7}
MATH = {"rollout.max_new_tokens": 2560, "data.max_len": 4096, "vllm.gpu_memory_utilization": 0.6}
# The authors' scripts: the settings that all share, and those that differ.
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
    "train.num_episodes": 4,
    "sfpo.enable": True,
    "sfpo.k": 3,
    "sfpo.gate": "upper",
    "sfpo.gate_window": 30,
    "sfpo.gate_threshold": 1.0,
    "reward.remote_url": "math_boxed",
    "eval.steps": 5,
    "eval.n_samples_per_prompt": 4,
    "eval.temperature": 1.0,
    "eval.top_p": 0.7,
}
PAPER_OF = {
    "qwen2.5-math-1.5b": {**MATH, "sfpo.alpha": 0.8},
    "qwen2.5-math-7b": {**MATH, "sfpo.alpha": 0.8},
    "deepseek-r1-distill-qwen-1.5b": {**DISTILLED, "sfpo.alpha": 0.8},
    "deepseek-r1-distill-qwen-7b": {**DISTILLED, "sfpo.alpha": 0.8},
    "qwen3-4b-base": {**DISTILLED, "sfpo.alpha": 0.9},
}
# What each script adds to the shared recipes: nodes; engines, and GPUs of each; GPUs of a node for the actor, TP, PP,
# tokens of a micro-batch.
PLACEMENT = {
    "qwen2.5-math-1.5b": (1, 8, 1, 8, 1, 1, 16384),
    "deepseek-r1-distill-qwen-1.5b": (1, 8, 1, 8, 1, 1, 16384),
    "qwen3-4b-base": (1, 8, 1, 8, 2, 1, 16384),
    "qwen2.5-math-7b": (1, 8, 1, 8, 2, 1, 8192),
    "deepseek-r1-distill-qwen-7b": (1, 8, 1, 8, 2, 1, 8192),
    "llama-3.1-8b": (1, 4, 1, 4, 4, 1, 8192),
    "qwen2.5-32b": (4, 8, 4, 8, 8, 1, 8192),
    "qwen2.5-72b": (8, 8, 8, 8, 8, 4, 8192),
}


def stand_in(directory: Path, name: str, body: str) -> None:
    """Put a program on the PATH in place of one that is not installed (Docker, Slurm, nvidia-smi)."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (directory / name).chmod(0o755)


def environment(*first: Path, **more: str) -> dict[str, str]:
    """This process's environment, with our command and the given directories on the PATH."""
    path = os.pathsep.join([*map(str, first), str(Path(sys.executable).parent), os.environ["PATH"]])
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    return {**ours, "PATH": path, "PYTHONPATH": str(ROOT), **more}


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


def test_scripts_find_the_command_without_an_activated_environment(tmp_path: Path) -> None:
    """They must use the repository's own environment, or say how to make one."""
    script = tmp_path / "examples" / "recipes" / "train.sh"
    script.parent.mkdir(parents=True)
    script.write_text((EXAMPLES / "recipes" / "train.sh").read_text(encoding="utf-8"), encoding="utf-8")
    command = ["bash", str(script), "Model", "--dry-run"]
    path = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=path, timeout=60)
    assert done.returncode == 127
    assert "not on PATH; run requirements/install.sh, then: source .venv/bin/activate" in done.stderr
    (tmp_path / ".venv").mkdir()
    stand_in(tmp_path / ".venv" / "bin", "openrlhf-sfpo", 'echo "$1 ${@: -1}"')
    done = subprocess.run(command, capture_output=True, text=True, env=path, timeout=60)
    assert (done.returncode, done.stdout) == (0, "train --dry-run\n"), done.stderr


@pytest.mark.parametrize("name", CONFIGS)
def test_the_models_are_those_that_were_published(name: str, tmp_path: Path) -> None:
    assert parameters_of(str(make_config(tmp_path, name))) == PARAMETERS[name]


def test_there_is_a_script_for_each_model() -> None:
    assert {script.stem for script in TRAINING} == set(MODELS)


def dry_run(script: Path, place: Path) -> subprocess.CompletedProcess[str]:
    place.mkdir()
    model = make_config(place, MODELS[script.stem])
    places = {"MODEL": str(model), "DATA": str(place / "data"), "RUN_DIR": str(place / "run")}
    command = ["bash", str(script), "--dry-run"]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**places), cwd=place, timeout=300)


@pytest.fixture(scope="module")
def dry_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, subprocess.CompletedProcess[str]]]:
    """Dry runs of all scripts, on all cores, because most of their time is imports."""
    places = [tmp_path_factory.mktemp("dry") / script.stem for script in TRAINING]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        done = pool.map(dry_run, TRAINING, places)
        return {place.name: (place, one) for place, one in zip(places, done, strict=True)}


@pytest.mark.parametrize("name", MODELS)
def test_dry_run(name: str, dry_runs: dict[str, tuple[Path, subprocess.CompletedProcess[str]]]) -> None:
    """A model directory that holds only config.json must be enough for the plan; downloads are still to do."""
    place, done = dry_runs[name]
    assert done.returncode == 0, done.stdout + done.stderr
    assert MODELS[name] in done.stdout
    assert not (place / "run").exists()


@pytest.mark.parametrize("script", TRAINING, ids=lambda path: path.stem)
def test_settings(script: Path, tmp_path: Path) -> None:
    """Every flag must exist, the paper's settings must be the paper's, and the caller's must win."""
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


@pytest.mark.parametrize("script", TRAINING, ids=lambda path: path.stem)
def test_placement(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The placement without environment variables; a file of the user's must win over the recipes."""
    for name in ("MODEL", "DATA", "RUN_DIR", "NODES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("sfpo: {k: 7, gate: 'off'}\ntrain.seed: 5\n")
    values = vars(parse(words_of(script, tmp_path, "--config", "my.yaml")[1:])[0])
    assert (values["sfpo.k"], values["sfpo.gate"], values["train.seed"]) == (7, "off", 5)
    assert values["actor.model_name_or_path"] == f"{tmp_path}/models/{MODELS[script.stem]}"
    assert (values["data.prompt_dataset"], values["run.dir"]) == (
        f"{tmp_path}/data/train.jsonl",
        f"{tmp_path}/runs/{script.stem}",
    )
    assert PLACEMENT[script.stem] == tuple(
        values[name]
        for name in (
            "actor.num_nodes",
            "vllm.num_engines",
            "vllm.tensor_parallel_size",
            "actor.num_gpus_per_node",
            "megatron.tensor_model_parallel_size",
            "megatron.pipeline_model_parallel_size",
            "train.max_tokens_per_gpu",
        )
    )


@pytest.mark.parametrize("size", ["1.5B", "7B"])
def test_skywork_or1(size: str, tmp_path: Path) -> None:
    """The recipe's settings, the programs twice, and a plan of memory for every stage that fits."""
    script = EXAMPLES / f"skywork-or1-{size.lower()}.sh"
    model = make_config(tmp_path, f"DeepSeek-R1-Distill-Qwen-{size}")
    data = tmp_path / "data" / "skywork-or1" / "data"
    places = {"MODEL": str(model), "DATA": str(tmp_path / "data"), "RUN_DIR": str(tmp_path / "run")}
    command = ["bash", str(script), "--dry-run"]
    missing = subprocess.run(command, capture_output=True, text=True, env=environment(**places), timeout=60)
    assert (missing.returncode, "hf download --repo-type dataset Skywork" in missing.stderr) == (2, True)
    write_skywork(data, 300)
    flat, given = parse(words_of(script, tmp_path, **places)[1:])
    values = vars(flat)
    names = [Path(file).name for file in values["data.prompt_dataset"].split(",")]
    assert names == ["code-0.parquet", "code-0.parquet", "math-0.parquet"]
    expected = {
        **{name: PAPER[name] for name in PAPER if name.startswith(("sfpo", "actor.adam", "algo"))},
        "data.difficulty_model": f"DeepSeek-R1-Distill-Qwen-{size}",
        "reward.remote_url": "math_or_code",
        "rollout.n_samples_per_prompt": 16,
        "train.batch_size": 4096,
        "algo.drop_equal_groups": True,
        "algo.adaptive_entropy.enable": True,
        "actor.entropy_coef": 0.0,
        "eval.temperature": 0.6,
    }
    assert {name: values[name] for name in expected} == expected
    lengths = [vars(stage.flat)["rollout.max_new_tokens"] for stage in stages.plan(flat, given)]
    assert lengths == [8192, 16384, 32768]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(**places), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("It fits: ") == 3


def test_a_recipe_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script in examples/README.md must work as it stands there."""
    (text,) = re.findall(r"```bash\n(recipes=.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL)
    (tmp_path / "my.sh").write_text(text)
    monkeypatch.chdir(ROOT)
    words = words_of(tmp_path / "my.sh", tmp_path, "--sfpo.alpha", "0.5", MODEL="/m", DATA="/d", RUN_DIR="/r")
    values = vars(parse(words[1:])[0])
    expected = {**PAPER, **DISTILLED, "sfpo.alpha": 0.5, "actor.model_name_or_path": "/m", "train.colocate_all": True}
    assert {name: values[name] for name in expected} == expected


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A directory with a `docker` that prints its arguments, one per line."""
    stand_in(tmp_path / "bin", "docker", "printf '%s\\n' \"$@\"")
    return tmp_path / "bin"


PASSED_ON = {
    "MODEL": "models/M",
    "NODES": "4",
    "NCCL_DEBUG": "INFO",
    "GLOO_SOCKET_IFNAME": "eth0",
    "VLLM_LOGGING_LEVEL": "INFO",
    "RAY_JOB_STOP_WAIT_TIME_S": "900",
    "RAY_AUTH_TOKEN": "secret",
}


def test_docker_run(container: Path, tmp_path: Path) -> None:
    more = {
        **PASSED_ON,
        "WORKSPACE": str(tmp_path),
        "HF_HOME": str(tmp_path / "bin"),
        "RAY_DEDUP_LOGS": "0",
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
        *(("--env", name) for name in (*PASSED_ON, "HF_HOME")),
        ("--volume", f"{tmp_path}/bin:{tmp_path}/bin"),
        ("--name", "one"),
        ("-d", "-q"),
    ):
        assert pair in pairs, pair
    assert "--ipc=host" in words
    assert "DATA" not in words, "what is not set is not passed on"
    assert "RAY_DEDUP_LOGS" not in words


@pytest.mark.parametrize(("address", "passed"), [({}, "RAY_ADDRESS=auto"), ({"RAY_ADDRESS": "h:1"}, "RAY_ADDRESS")])
def test_docker_run_in_the_container_of_ray(container: Path, address: dict[str, str], passed: str) -> None:
    """EXEC must pass the same variables to a running container, and call the entrypoint, which docker exec skips."""
    command = ["bash", str(ROOT / "docker" / "run.sh"), "qwen2.5-32b.sh", "--run.dir", "a b"]
    more = {**PASSED_ON, **address, "EXEC": "head", "GPUS": "all"}
    lines = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(container, **more))
    words = lines.stdout.splitlines()
    assert words[0] == "exec"
    entrypoint = re.search(r'ENTRYPOINT .*"([^"]*)"\]', (ROOT / "Dockerfile").read_text())[1]
    assert words[-5:] == ["head", entrypoint, "qwen2.5-32b.sh", "--run.dir", "a b"]
    pairs = list(itertools.pairwise(words))
    for pair in (*(("--env", name) for name in PASSED_ON), ("--env", passed), ("--workdir", "/workspace")):
        assert pair in pairs, pair
    assert not {"--gpus", "--rm", "--volume", "--network=host"} & set(words), "docker exec knows none of these"


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
        (["qwen2.5-72b.sh", "--no-such-flag"], 2, "--no-such-flag: is not a flag."),
    ],
)
def test_entrypoint(words: list[str], status: int, output: str) -> None:
    command = ["bash", str(ROOT / "docker" / "entrypoint.sh"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == status, done.stderr
    assert output in done.stdout + done.stderr


def test_entrypoint_has_ray_ask_for_a_token(tmp_path: Path) -> None:
    """The head must make a new one each time; other nodes and the run must use it, and not start Ray without it."""
    stand_in(tmp_path / "bin", "ray", 'echo "$RAY_AUTH_MODE ${RAY_AUTH_TOKEN_PATH:-} ${RAY_AUTH_TOKEN:-}"')
    workspace, file = tmp_path / "workspace", tmp_path / "workspace" / ".ray-token"
    workspace.mkdir()

    def enter(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(ROOT / "docker" / "entrypoint.sh"), *words]
        path = environment(tmp_path / "bin", **more)
        return subprocess.run(command, capture_output=True, text=True, env=path, cwd=workspace, timeout=60)

    refused = enter("ray", "start", "--address", "head:6379", "--block")
    assert refused.returncode == 2 and "Start the head first" in refused.stderr
    tokens = set()
    for _ in range(2):
        assert enter("ray", "start", "--head", "--block").stdout == f"token {file} \n"
        assert file.stat().st_mode & 0o777 == 0o600
        tokens.add(file.read_text())
    assert len(tokens) == 2 and all(re.fullmatch("[0-9a-f]{64}", token) for token in tokens)
    assert enter("ray", "start", "--address", "head:6379").stdout == f"token {file} \n"
    assert enter("ray", "status").stdout == f"token {file} \n"
    assert enter("ray", "start", "--head", RAY_AUTH_TOKEN="mine", RAY_AUTH_MODE="token").stdout == "token  mine\n"
    assert enter("ray", "start", "--head", ALLOW_OPEN_RAY="1").stdout == "disabled  \n"


@pytest.mark.parametrize("command", COMMANDS)
def test_entrypoint_knows_every_command(command: str, tmp_path: Path) -> None:
    """Unbuffered, as in the image, Python writes its help line by line, and fails if the reader stops early."""
    help_of = f"{sys.executable} -m openrlhf_sfpo.cli.main --help"
    stand_in(tmp_path / "bin", "openrlhf-sfpo", f'[ "$1" = --help ] && exec {help_of}; echo "run: $*"')
    entrypoint = ["bash", str(ROOT / "docker" / "entrypoint.sh"), command, "a b"]
    more = {"PYTHONUNBUFFERED": "1", "PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"}
    for _ in range(2):
        done = subprocess.run(entrypoint, capture_output=True, text=True, env={**environment(), **more}, timeout=60)
        assert (done.returncode, done.stdout) == (0, f"run: {command} a b\n"), done.stderr


@pytest.mark.parametrize(
    ("gpus", "doctor", "problems"),
    [
        ("echo 'GPU 0: H100'; echo 'GPU 1: H100'", "echo well", []),
        ("echo 'No devices were found'; exit 6", "echo well", ["No devices were found", "ERROR GPUs."]),
        ("sleep 60", "echo well", ["no answer within 1 s", "ERROR GPUs."]),
        ("echo 'GPU 0: H100'", "echo /dev/shm is small; exit 1", ["/dev/shm is small", "ERROR doctor."]),
    ],
)
def test_healthcheck(gpus: str, doctor: str, problems: list[str], tmp_path: Path) -> None:
    """It must say what is wrong, even if the driver hangs, and never have doctor compute on the GPUs."""
    directory = tmp_path / "bin"
    stand_in(directory, "nvidia-smi", gpus)
    stand_in(directory, "openrlhf-sfpo", f'echo "$*" >>{tmp_path}/asked; {doctor}')
    more = environment(directory, HEALTHCHECK_SECONDS="1")
    command = ["bash", str(ROOT / "docker" / "healthcheck.sh")]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, env=more, timeout=30)
        assert done.returncode == bool(problems), done.stdout + done.stderr
        assert all(problem in done.stdout for problem in problems), done.stdout
        assert done.stdout.count("ERROR") == bool(problems)
    assert (tmp_path / "asked").read_text() == "doctor --quick\n" * 2


@pytest.fixture
def ray_job(tmp_path: Path) -> Path:
    """A `ray` that runs a job as Ray does: its words joined into one string, by a shell, in another directory. It
    records how it was authenticated."""
    stand_in(
        tmp_path / "bin",
        "ray",
        f'echo "${{RAY_AUTH_MODE:-none}} ${{RAY_AUTH_TOKEN_PATH:-}}" >{tmp_path}/authentication\n'
        f"[ \"$1 $2 $3 $4\" = 'job submit --address http://head:8265' ] || exit 9\n"
        f'exec {sys.executable} -c \'import os, subprocess, sys; os.chdir("/"); '
        'sys.exit(subprocess.call(subprocess.list2cmdline(sys.argv[1:]), shell=True))\' "${@:6}"',
    )
    return tmp_path / "bin"


# Everything that a shell would interpret.
TEMPLATE = '$x$ costs $HOME `id` $(id) \\$5 \\\\ "quoted" \'so\' \\"both\\" !! * ~ #\nQ: {}\\'


@pytest.mark.parametrize("remote", [False, True])
def test_ray_job(ray_job: Path, tmp_path: Path, remote: bool) -> None:
    """Paths are those of this machine; with REMOTE_DIR, those of the head."""
    there = tmp_path / "the head's" if remote else tmp_path
    there.mkdir(exist_ok=True)
    (there / "a script.sh").write_text('printf "%s|" "$PWD" "$MODEL" "$NODES" "$@"\n')
    done = subprocess.run(
        ["bash", str(EXAMPLES / "ray_job.sh"), "a script.sh", "--data.input_template", TEMPLATE, "--dry-run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(
            ray_job,
            RAY_DASHBOARD="http://head:8265",
            MODEL="models/my model",
            NODES="4",
            REMOTE_DIR=str(there) if remote else "",
            RAY_AUTH_TOKEN="secret",
        ),
    )
    assert done.stdout == f"{there}|models/my model|4|--data.input_template|{TEMPLATE}|--dry-run|", done.stderr


@pytest.mark.parametrize("place", [".ray-token", "home/.ray/auth_token"])
def test_ray_job_finds_the_token(ray_job: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("secret")
    (tmp_path / "run.sh").write_text('echo "$*"\n')
    command = ["bash", str(EXAMPLES / "ray_job.sh"), "run.sh", "--sfpo.k", "3"]
    more = environment(ray_job, RAY_DASHBOARD="http://head:8265", HOME=str(tmp_path / "home"))
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=more)
    assert done.stdout == "--sfpo.k 3\n", done.stderr
    assert (tmp_path / "authentication").read_text() == f"token {tmp_path / place}\n"


def test_ray_job_without_a_token(ray_job: Path, tmp_path: Path) -> None:
    """It must be refused; ALLOW_OPEN_RAY=1 says that the cluster is open, and must reach the run as a flag."""
    (tmp_path / "run.sh").write_text('echo "$*"\n')
    command = ["bash", str(EXAMPLES / "ray_job.sh"), "run.sh"]
    more = environment(ray_job, RAY_DASHBOARD="http://head:8265", HOME=str(tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=more)
    assert done.returncode == 2
    assert "RAY_AUTH_TOKEN_PATH" in done.stderr and "ALLOW_OPEN_RAY=1" in done.stderr
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**more, "ALLOW_OPEN_RAY": "1"})
    assert done.stdout == "--run.allow_open_ray\n", done.stderr


def test_ray_job_without_a_script(ray_job: Path, tmp_path: Path) -> None:
    command = ["bash", str(EXAMPLES / "ray_job.sh"), "nothing.sh"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(ray_job))
    assert done.returncode == 2
    assert "there is no nothing.sh" in done.stderr


# Like the real one, it passes SIGUSR1 to the processes of the step, and kills them at SIGTERM. It records its requests
# in `steps`. A step with the name of a container enters it, so that must exist already or have an image.
SRUN = """\
node= name= image= workdir=-
while [[ "$1" == --* ]]; do
    case "$1" in
        --nodelist=*) node="${1#*=}" ;;
        --container-name=*) name="${1#*=}" ;;
        --container-image=*) image="${1#*=}" ;;
        --container-workdir=*) workdir="${1#*=}" ;;
    esac
    shift
done
echo "$node|$name|$workdir|${SRUN_CPUS_PER_TASK:-}|$1" >>STEPS
setsid "$@" &
task=$!
trap 'kill -USR1 -- "-$task"' USR1
trap 'echo "killed: $1" >>SAID; kill -KILL -- "-$task"' TERM
status=0
wait "$task" || status=$?
while kill -0 "$task" 2>/dev/null; do status=0; wait "$task" || status=$?; done
exit "$status"
"""
# The head answers at its port; `ray status` counts the nodes that were started.
RAY = f"""\
if [ "$1" = status ]; then grep "^ray start" SAID | sed "s/.*/ 1 node_x/"; exit; fi
echo "$RAY_AUTH_MODE $(stat -c %a "$RAY_AUTH_TOKEN_PATH") $(cat "$RAY_AUTH_TOKEN_PATH")" >>TOKENS
echo "ray $*" >>SAID
[[ "$*" != *--head* ]] || exec {sys.executable} -c '
import socket, sys, time
port = next(int(word.split("=")[1]) for word in sys.argv if word.startswith("--port="))
listening = socket.create_server(("0.0.0.0", port))
time.sleep(60)' "$@"
exec sleep 60
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """Stand-ins for Slurm and Ray on two nodes, both of them this machine, that record what they do in `said`."""
    directory, said = tmp_path / "bin", str(tmp_path / "said")
    stand_in(directory, "scontrol", f'[ "$1" = show ] && printf "node1\\nnode2\\n" || echo "scontrol $*" >>{said}')
    stand_in(directory, "srun", SRUN.replace("SAID", said).replace("STEPS", str(tmp_path / "steps")))
    stand_in(
        directory, "hostname", 'echo "${HOST_ADDRESS:-0.0.0.0} 10.0.0.2"'
    )  # 0.0.0.0: every address of this machine
    stand_in(directory, "ray", RAY.replace("SAID", said).replace("TOKENS", str(tmp_path / "tokens")))
    return directory


def start_batch(slurm: Path, *flags: str, **more: str) -> subprocess.Popen:
    """Start slurm.sbatch with run.sh of the parent directory."""
    given = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "64", "REQUEUE": "1"}
    return subprocess.Popen(
        ["bash", str(EXAMPLES / "slurm.sbatch"), "run.sh", *flags],
        cwd=slurm.parent,
        env=environment(slurm, **given, **more),
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("srun", ["", "--mpi=none", "--container-image=i --container-mounts=/a:/a"])
@pytest.mark.parametrize("cut_short", [False, True])
def test_slurm(slurm: Path, tmp_path: Path, cut_short: bool, srun: str) -> None:
    """A run on two nodes; at SIGTERM to the batch script, the run must end first and Ray after it."""
    ends = "sleep 60 & wait" if cut_short else "exit 3"
    (tmp_path / "run.sh").write_text(
        f'trap "sleep 0.3; echo checkpoint written >>{tmp_path}/said; exit 0" TERM\n'
        f'file="$RAY_AUTH_TOKEN_PATH"; echo "$RAY_AUTH_MODE $(stat -c %a "$file") $(cat "$file")" >>{tmp_path}/tokens\n'
        f'echo "run $RAY_ADDRESS $NODES $*" >>{tmp_path}/said\n{ends}\n'
    )
    port = free_port()
    batch = start_batch(slurm, "--sfpo.k", "3", PORT=str(port), SRUN_ARGS=srun)
    said = tmp_path / "said"
    if cut_short:
        while not (said.exists() and "run 0.0.0.0" in said.read_text()):
            assert batch.poll() is None, batch.stderr.read()
            time.sleep(0.1)
        time.sleep(0.2)
        batch.terminate()
    assert batch.wait(timeout=60) == (0 if cut_short else 3), batch.stderr.read()
    until = time.monotonic() + 10
    while said.read_text().count("killed: ray") < 2 and time.monotonic() < until:
        time.sleep(0.1)
    ending = ["checkpoint written", "scontrol requeue 7"] if cut_short else []
    assert said.read_text().splitlines() == [
        f"ray start --head --node-ip-address=0.0.0.0 --port={port} --block",
        f"ray start --address=0.0.0.0:{port} --block",
        f"run 0.0.0.0:{port} 2 --train.grace_seconds 840 --sfpo.k 3",
        *ending,
        "killed: ray",
        "killed: ray",
    ]
    (token,) = set((tmp_path / "tokens").read_text().splitlines())
    assert re.fullmatch("token 600 [0-9a-f]{64}", token), "Ray on both nodes and the run have the job's own token"
    assert not list(tmp_path.glob(".ray-token*")), "it is gone with the job"
    place = f"sfpo-7-0|{tmp_path}" if "container" in srun else "|-"
    steps = (tmp_path / "steps").read_text().splitlines()
    beside = [f"node1|{place}|64|bash"] if srun else []
    # The run is in the container of the first node's Ray; looking up the address takes no container.
    assert steps[:2] == ["node1||-|64|hostname", f"node1|{place}|64|ray"]
    assert sorted(steps[2:]) == sorted([f"node2|{place}|64|ray", *beside])


@pytest.mark.parametrize("again", [False, True])
def test_slurm_containers_have_names_of_their_own(slurm: Path, tmp_path: Path, again: bool) -> None:
    """A requeued job keeps its number, so the name must include the attempt; the user's own names must stay."""
    (tmp_path / "run.sh").write_text("exit 0\n")
    srun = "--container-image=i" if again else "--container-image=i --container-name=mine --container-workdir=/w"
    batch = start_batch(slurm, PORT=str(free_port()), SRUN_ARGS=srun, SLURM_RESTART_COUNT="2")
    assert batch.wait(timeout=60) == 0, batch.stderr.read()
    places = {tuple(line.split("|")[1:3]) for line in (tmp_path / "steps").read_text().splitlines()[1:]}
    assert places == {("sfpo-7-2", str(tmp_path)) if again else ("mine", "/w")}


def test_slurm_refuses_an_address_that_others_do_not_reach(slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("exit 0\n")
    batch = start_batch(slurm, HOST_ADDRESS="127.0.1.1")
    assert batch.wait(timeout=60) == 1
    message = batch.stderr.read()
    assert "127.0.1.1" in message and "/etc/hosts" in message and "ADDRESS" in message
    assert not (tmp_path / "said").exists()
    batch = start_batch(slurm, HOST_ADDRESS="127.0.1.1", ADDRESS="0.0.0.0", PORT=str(free_port()))
    assert batch.wait(timeout=60) == 0, batch.stderr.read()


@pytest.mark.parametrize("opens", [False, True])
def test_slurm_with_a_token_of_ones_own_or_without(slurm: Path, tmp_path: Path, opens: bool) -> None:
    (tmp_path / "run.sh").write_text(f'echo "$RAY_AUTH_MODE ${{RAY_AUTH_TOKEN:-none}} $*" >>{tmp_path}/said\n')
    batch = start_batch(
        slurm, PORT=str(free_port()), **({"ALLOW_OPEN_RAY": "1"} if opens else {"RAY_AUTH_TOKEN": "mine"})
    )
    assert batch.wait(timeout=60) == 0
    words = (
        "disabled none --train.grace_seconds 840 --run.allow_open_ray"
        if opens
        else ("token mine --train.grace_seconds 840")
    )
    assert words in (tmp_path / "said").read_text().splitlines()
    assert ("can run programs as" in batch.stderr.read()) == opens
    assert not list(tmp_path.glob(".ray-token*"))


def test_slurm_ends_where_ray_does_not_start(slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text(f"echo run >>{tmp_path}/said\n")
    stand_in(slurm, "ray", "exit 1")
    batch = start_batch(slurm, PORT=str(free_port()))
    assert batch.wait(timeout=60) == 1
    assert "Ray has not started on node1" in batch.stderr.read()
    assert not (tmp_path / "said").exists()
