"""Security: what a run listens on, whose Ray it joins, which code it imports, where keys and files go."""

import fcntl
import importlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import psutil
import pytest
import yaml
from cli import make_traps
from listening import sockets_of
from places import ROOT
from pretrained_runs import TWO_SMALL_STEPS
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from openrlhf_sfpo.cli import compare
from openrlhf_sfpo.cli.flags import parse
from openrlhf_sfpo.cluster import address as ray_cluster
from openrlhf_sfpo.system import home, keys, loopback, scratch
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.ports import free_port

KEY = "0123456789abcdef0123456789abcdef01234567"
COMMAND = Path(sys.executable).parent / "openrlhf-sfpo"


def small_run(testbed: Path, run_dir: Path) -> dict[str, Any]:
    """Flags of a run of two steps on two ranks."""
    return {
        **TWO_SMALL_STEPS,
        "run.dir": run_dir,
        "actor.model_name_or_path": testbed / "model",
        "data.prompt_dataset": testbed / "train.jsonl",
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.max_samples": 8,
    }


def as_words(flags: dict[str, Any]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


# -- sockets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "env"])
def test_a_store_listens_on_the_given_address_only(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rendezvous = importlib.import_module("torch.distributed.rendezvous")
    monkeypatch.setattr(rendezvous, "_create_c10d_store", rendezvous._create_c10d_store)  # restored at the end
    loopback.keep_stores_on_loopback()
    loopback.keep_stores_on_loopback()
    port = free_port()
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    url = f"tcp://127.0.0.1:{port}?rank=0&world_size=1" if kind == "tcp" else "env://"
    store, *_ = next(rendezvous.rendezvous(url))
    again, *_ = next(rendezvous.rendezvous(url))  # torch shares one server between groups of a process
    store.set("a", "1")
    assert again.get("a") == b"1"
    mine = [one for one in sockets_of(psutil.Process()) if one.port == port]
    assert mine and all(one.on_loopback for one in mine)


def test_open_sockets_are_found() -> None:
    """Otherwise the tests of what a run listens on could not fail."""
    with closing(socket.create_server(("0.0.0.0", 0))) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("0.0.0.0", 0))
        ports = {("TCP", tcp.getsockname()[1]), ("UDP", udp.getsockname()[1])}
        found = {(one.kind, one.port) for one in sockets_of(psutil.Process()) if not one.on_loopback}
    assert ports <= found


# -- clusters ---------------------------------------------------------------------------------------------------------


class _Gcs(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
    """Answers the first request as a real cluster does, with and without token authentication."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def GetClusterId(self, request: Any, context: grpc.ServicerContext) -> Any:
        given = dict(context.invocation_metadata()).get("authorization")
        if self._token is not None and given != f"Bearer {self._token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return gcs_service_pb2.GetClusterIdReply(cluster_id=b"1")


@contextmanager
def cluster(token: str | None, host: str) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(_Gcs(token), server)
    port = server.add_insecure_port(f"{host}:0")
    server.start()
    try:
        yield f"{host}:{port}"
    finally:
        server.stop(None)


@pytest.fixture
def network_address() -> str:
    """An address of this machine that is not the loopback interface's."""
    from ray._private.services import get_node_ip_address

    address = get_node_ip_address()
    if address.startswith("127."):
        pytest.skip("this machine has no network")
    return address


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", keys.WANDB_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_an_open_cluster_is_refused_unless_a_flag_says_otherwise(
    network_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster(None, network_address) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        # A token here does not help: the cluster does not ask for it.
        for mode in ("disabled", "token"):
            monkeypatch.setenv("RAY_AUTH_MODE", mode)
            monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
            with pytest.raises(UsageError, match=r"without authentication.*--run\.allow_open_ray"):
                ray_cluster.check_cluster(False)
        assert ray_cluster.check_cluster(True) == ray_cluster.Cluster(address, False, False)


def test_a_cluster_that_only_this_machine_reaches_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster(None, "127.0.0.1") as address:
        for name in (address, address.replace("127.0.0.1", "localhost")):
            monkeypatch.setenv("RAY_ADDRESS", name)
            assert ray_cluster.check_cluster(False) == ray_cluster.Cluster(address, False, True)


@pytest.mark.parametrize("place", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "home"])
def test_a_cluster_with_a_token(
    place: str, network_address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = secrets.token_hex(8)
    with cluster(token, network_address) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UsageError, match=r"asks for a token, and there is none here.*RAY_AUTH_TOKEN_PATH"):
            ray_cluster.check_cluster(False)
        for text in ("wrong", token):
            file = tmp_path / "token" if place == "RAY_AUTH_TOKEN_PATH" else tmp_path / ".ray" / "auth_token"
            if place == "RAY_AUTH_TOKEN":
                monkeypatch.setenv(place, text)
            else:
                file.parent.mkdir(exist_ok=True)
                file.write_text(f"{text}\n")
            if place == "RAY_AUTH_TOKEN_PATH":
                monkeypatch.setenv(place, str(file))
            if text == "wrong":
                with pytest.raises(UsageError, match="does not take"):
                    ray_cluster.check_cluster(False)
        assert ray_cluster.check_cluster(False) == ray_cluster.Cluster(address, True, False)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("127.0.0.1:{closed}", "nothing answers"),
        ("localhost:{closed}", "nothing answers"),
        ("[::1]:{closed}", "nothing answers"),
        ("no-such-host.invalid:6379", "nothing answers"),
        ("127.0.0.1:{silent}", "does not answer as Ray does"),
        ("127.0.0.1:{web}", "does not answer as Ray does"),
        ("ray://127.0.0.1:10001", "Ray Client"),
        ("127.0.0.1", "no HOST:PORT"),
        ("127.0.0.1:port", "no HOST:PORT"),
        ("127.0.0.1:70000", "no HOST:PORT"),
    ],
)
def test_an_address_where_no_ray_answers_is_refused_within_seconds(
    address: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "_SECONDS", 0.5)

    def answer_like_the_web(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as web:
        threading.Thread(target=answer_like_the_web, args=(web,), daemon=True).start()
        ports = {"closed": free_port(), "silent": silent.getsockname()[1], "web": web.getsockname()[1]}
        monkeypatch.setenv("RAY_ADDRESS", address.format(**ports))
        with pytest.raises(UsageError, match=problem) as refused:
            ray_cluster.check_cluster(False)
        assert refused.value.flag == "RAY_ADDRESS" and "\n" not in str(refused.value)


@pytest.mark.parametrize("address", ["", " ", "local", None])
def test_a_run_joins_only_the_cluster_that_it_is_given(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert ray_cluster.check_cluster(False) is None


@pytest.mark.parametrize("command", [["train"], ["train", "--dry-run"]])
def test_a_dead_address_ends_every_command_with_one_line(command: list[str], testbed: Path, tmp_path: Path) -> None:
    flags = ["--run.dir", tmp_path / "run", "--actor.model_name_or_path", testbed / "model", "--data.input_key=prompt"]
    flags += ["--data.prompt_dataset", testbed / "train.jsonl", "--reward.remote_url=last_integer"]
    done = subprocess.run(
        [COMMAND, *command, *flags],
        env={**os.environ, "RAY_ADDRESS": f"127.0.0.1:{free_port()}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("openrlhf-sfpo train: error: RAY_ADDRESS: is 127.0.0.1:") and "nothing answers" in line
    assert not (tmp_path / "run" / "status.json").exists()


@pytest.fixture
def real_cluster(network_address: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Ray cluster with a token, started by `ray start`, and the variables for joining it."""
    directory, port, token = Path(tempfile.mkdtemp(prefix="r")), free_port(), tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    joining = {"RAY_ADDRESS": f"{network_address}:{port}", "RAY_AUTH_TOKEN_PATH": str(token)}
    ports = {"port": port, "dashboard-port": free_port(), "dashboard-agent-listen-port": free_port()}
    words = [f"--{name}={value}" for name, value in ports.items()]
    words += ["--num-gpus=2", "--num-cpus=6", "--object-store-memory=500000000", f"--temp-dir={directory}"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    subprocess.run(
        [COMMAND.with_name("ray"), "start", "--head", *words], env=environment, cwd=tmp_path, check=True, timeout=120
    )
    try:
        yield {**joining, "directory": str(directory)}
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if any(str(directory) in word for word in process.info["cmdline"] or ()):
                process.kill()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.slow
def test_a_real_cluster_with_a_token(real_cluster: dict[str, str], testbed: Path, tmp_path: Path) -> None:
    """Joining must require the token; workers must get the driver's keys, which must not be written anywhere."""
    directory = Path(real_cluster.pop("directory"))
    flags = {**small_run(testbed, tmp_path / "run"), "actor.num_gpus_per_node": 1, keys.WANDB_FLAG: KEY}
    flags["megatron.pipeline_model_parallel_size"] = 1
    for change, problem in (
        ({"RAY_AUTH_TOKEN": "wrong"}, "does not take"),
        ({"RAY_AUTH_TOKEN_PATH": ""}, "asks for a token, and there is none"),
        ({}, None),
    ):
        done = subprocess.run(
            [COMMAND, "train", *as_words(flags), "--vllm.enforce_eager"],
            env={**os.environ, **real_cluster, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), **change},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == (2 if problem else 0), done.stdout + done.stderr
        assert problem is None or problem in done.stderr
    assert list(tmp_path.glob("wandb/offline-run-*")), "the trainer had the key"
    everything = [path for root in (tmp_path, directory) for path in root.rglob("*") if path.is_file()]
    assert [path for path in everything if KEY.encode() in path.read_bytes()] == []


# -- imports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        [COMMAND, "train", "--help", "sfpo"],
        [sys.executable, "-m", "openrlhf_sfpo.cli.main", "train", "--help", "sfpo"],
        [sys.executable, "-m", "openrlhf_sfpo.cli.train", "--help", "sfpo"],
    ],
)
def test_commands_import_nothing_from_the_current_directory(command: list[Any], tmp_path: Path) -> None:
    directory = make_traps(tmp_path / "here")
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "imported from the current directory" not in done.stdout + done.stderr
    assert "--sfpo.k" in done.stdout


@pytest.mark.parametrize("value", [":", ":/nowhere", "/nowhere:", "/nowhere::/usr"])
def test_an_empty_entry_of_pythonpath_is_not_the_current_directory(value: str, tmp_path: Path) -> None:
    directory = make_traps(tmp_path / "here")
    done = subprocess.run(
        [COMMAND, "train", "--help", "sfpo"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": value},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "--sfpo.k" in done.stdout, done.stderr


def test_a_package_that_is_hidden_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openrlhf_sfpo.system.search_path import check_packages

    check_packages()
    directory = make_traps(tmp_path / "here")
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "openrlhf", raising=False)
    with pytest.raises(UsageError, match=f"^PYTHONPATH: leads to {directory}/openrlhf/__init__.py, which hides"):
        check_packages()


def test_a_checkout_that_is_not_installed_still_starts(tmp_path: Path) -> None:
    """Without the current directory on the search path, the package would not be found at all."""
    code = "import sys; sys.meta_path = [one for one in sys.meta_path if '__editable__' not in repr(one)]"
    (tmp_path / "sitecustomize.py").write_text("")
    (tmp_path / "openrlhf_sfpo").symlink_to(ROOT / "openrlhf_sfpo")
    probe = (
        f"{code}; sys.orig_argv = ['python', '-m', 'openrlhf_sfpo.cli.main']; sys.path.insert(0, '');"
        "import openrlhf_sfpo.system.search_path as s; s.leave_out_current_directory(); print(sys.path[0] == '')"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr


def test_ray_workers_search_what_the_driver_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from openrlhf_sfpo.cluster.start import job_config

    here, script = tmp_path / "here", tmp_path / "scripts"
    here.mkdir()
    monkeypatch.chdir(here)
    # A script's directory is searched; the current directory only in a notebook ("") or if PYTHONPATH names it.
    for searched, expected in (
        ([str(script)], [str(script)]),
        ([""], [str(here)]),
        ([str(here)], [str(here)]),
        ([], []),
    ):
        monkeypatch.setattr(sys, "path", [*searched, "/usr/lib"])
        config = job_config()
        config._py_driver_sys_path.extend([str(script), str(here)])  # what Ray does
        assert list(config._get_proto_job_config().py_driver_sys_path) == expected


# -- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--logger.wandb.key", KEY], [f"--logger.wandb.key={KEY}"]])
def test_a_key_moves_from_the_flags_to_the_environment(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.WANDB_VARIABLE, "another")
    flat, _ = parse(words)
    keys.take_keys(vars(flat))
    assert os.environ[keys.WANDB_VARIABLE] == KEY
    assert KEY not in repr(flat)
    assert vars(flat)[keys.WANDB_FLAG] == "env", "W&B is on"
    assert keys.key_in(words) == KEY


@pytest.mark.parametrize("words", [["--set", f"logger.wandb.key={KEY}"], [f"--set=logger.wandb.key={KEY}"]])
def test_a_key_in_a_comparison(words: list[str]) -> None:
    assert keys.key_in(words) == KEY


@pytest.mark.parametrize("words", [[], ["--logger.wandb.key", "env"], ["--logger.wandb.key=env"]])
def test_no_warning_where_no_key_is_visible(words: list[str]) -> None:
    assert keys.key_in(words) is None


def test_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {keys.WANDB_FLAG: "env"}
    with pytest.raises(UsageError, match=r"no W&B key in the environment.*WANDB_API_KEY"):
        keys.take_keys(settings)
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    keys.take_keys(settings)
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv(keys.WANDB_VARIABLE, KEY)
    keys.take_keys(settings)
    assert settings == {keys.WANDB_FLAG: "env"}
    nothing: dict[str, Any] = {keys.WANDB_FLAG: None}
    keys.take_keys(nothing)
    assert nothing == {keys.WANDB_FLAG: None}, "a key that is exported for other programs sends nothing to W&B"


def test_ps_does_not_show_the_key() -> None:
    code = "import pathlib, sys; from openrlhf_sfpo.system import keys; keys.hide(sys.argv);"
    code += "print(pathlib.Path('/proc/self/cmdline').read_text())"
    command = [sys.executable, "-c", code, "--logger.wandb.key", KEY, "--x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "--logger.wandb.key env --x" in done.stdout, done.stderr
    assert KEY not in done.stdout + done.stderr
    assert "every user of this machine can read it" in done.stderr


def test_a_comparison_writes_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.WANDB_VARIABLE, "")
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"base": {"logger": {"wandb": {"key": KEY}}}, "variants": ["sfpo"]}))
    (run,) = compare.plan(config, tmp_path / "out", [])
    assert KEY not in json.dumps(run.settings) + repr(run.flat)
    assert os.environ[keys.WANDB_VARIABLE] == KEY


# -- temporary files and caches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [4, 25, 26, 99, 150])
def test_temporary_files_go_where_sockets_fit(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
    directory = Path("/tmp") / ("t" * (length - 5)) if length > 5 else Path("/tmp")
    directory.mkdir(exist_ok=True)
    try:
        monkeypatch.setenv("TMPDIR", str(directory))
        own = scratch.Scratch()
        assert (own.path.parent == directory) == (length <= 25)
        assert len(f"{own.ray}{longest}") <= 107
        assert own.path.stat().st_mode & 0o077 == 0, "others may not look into it"
        own.close()
        assert not own.path.exists()
    finally:
        if directory != Path("/tmp"):
            directory.rmdir()


def test_without_any_place_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch.os, "access", lambda *_: False)
    with pytest.raises(UsageError, match=r"^TMPDIR: .*short, writable directory"):
        scratch.Scratch()


HOLD_SEMAPHORE = """
import multiprocessing, time
from openrlhf_sfpo.system.scratch import name_shared_memory
name_shared_memory()
semaphore = multiprocessing.get_context("spawn").Semaphore()
print(semaphore._semlock.name, flush=True)
time.sleep(60)
"""


def test_leftovers_of_a_killed_run_are_removed_by_the_next_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = Path("/tmp") / f"t{secrets.token_hex(4)}"
    own.mkdir()
    monkeypatch.setenv("TMPDIR", str(own))
    alive = scratch.Scratch()
    dead = own / "sfpo-12345678"
    dead.mkdir()
    (dead / ".lock").touch()
    foreign = own / "sfpo-no-lock"
    foreign.mkdir()
    left = Path("/dev/shm/sem.sfpo-12345678-abc")
    left.touch()
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD_SEMAPHORE],
        env={**os.environ, scratch.VARIABLE: str(alive.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        name = child.stdout.readline()
        assert name.startswith(f"/{alive.path.name}-")
        scratch.Scratch().close()
        assert not dead.exists() and not left.exists()
        assert alive.path.exists(), "a run that lives keeps its files"
        assert foreign.exists(), "nobody knows whose that is"
    finally:
        child.kill()
        child.communicate()
        alive.close()
        foreign.rmdir()
        own.rmdir()
    assert list(Path("/dev/shm").glob(f"sem.{alive.path.name}-*")) == []


def test_leftovers_with_a_held_lock_stay(tmp_path: Path) -> None:
    held = tmp_path / "sfpo-aaaaaaaa"
    held.mkdir()
    with (held / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        scratch.remove_leftovers(tmp_path)
        assert held.exists()
    scratch.remove_leftovers(tmp_path)
    assert not held.exists()


HOMES: dict[str, Callable[[Path], str | None]] = {
    "missing": lambda path: str(Path("/proc/nowhere")),
    "a file": lambda path: str(path / "file"),
    "unset": lambda path: None,
}


@pytest.mark.parametrize("kind", HOMES)
def test_a_home_that_cannot_be_written_is_replaced(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "new").mkdir()
    value = HOMES[kind](tmp_path)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv("HOME", value)

    def no_entry(number: int) -> Any:
        raise KeyError(number)

    monkeypatch.setattr(home.pwd, "getpwuid", no_entry)
    home.ensure_home(tmp_path / "new" / "home")
    monkeypatch.setenv("HOME", os.environ["HOME"])  # so that it is restored
    assert Path.home() == tmp_path / "new" / "home"
    assert home.is_writable(Path.home())
    assert os.environ["USER"] == f"user{os.getuid()}"
    monkeypatch.setenv("USER", os.environ["USER"])


@pytest.mark.parametrize("value", [None, ""])
def test_a_home_known_only_from_the_user_database(
    value: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", value or "")
    if value is None:
        monkeypatch.delenv("HOME")
    monkeypatch.setattr(home.pwd, "getpwuid", lambda number: SimpleNamespace(pw_dir=str(tmp_path)))
    home.ensure_home()
    assert os.environ["HOME"] == str(tmp_path)


def test_a_home_that_can_be_written_stays(tmp_path: Path) -> None:
    home.ensure_home(tmp_path / "unused")
    assert Path.home() == tmp_path and not (tmp_path / "unused").exists()


def test_commands_leave_nothing_in_the_temporary_directory(testbed: Path, tmp_path: Path) -> None:
    """A dry run imports transformers and thereby torch's compiler, which creates a directory on import."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    words = as_words(small_run(testbed, tmp_path / "run"))
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    command = [COMMAND, "train", *words, "--vllm.enforce_eager", "--dry-run"]
    subprocess.run(command, env={**environment, "TMPDIR": str(temporary)}, check=True, capture_output=True)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", home.CACHE_VARIABLES)
def test_a_cache_that_cannot_be_written_is_named_before_the_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in home.CACHE_VARIABLES:
        monkeypatch.delenv(other, raising=False)
    home.check_caches()
    monkeypatch.setenv(name, "/proc/nowhere")
    with pytest.raises(UsageError, match=f"^{name}: is /proc/nowhere, which cannot be written"):
        home.check_caches()


def test_logs_are_copied_before_the_session_is_removed(tmp_path: Path) -> None:
    from openrlhf_sfpo.cluster.local import keep_ray_logs

    (tmp_path / "session" / "logs" / "old").mkdir(parents=True)
    (tmp_path / "session" / "logs" / "worker.err").write_text("why")
    (tmp_path / "session" / "logs" / "tpu_logs").symlink_to("/nowhere")
    for _ in range(2):
        kept = keep_ray_logs(tmp_path / "session", tmp_path / "run" / "logs" / "ray")
        assert sorted(path.name for path in kept.iterdir()) == ["old", "worker.err"]


def test_a_cluster_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from openrlhf_sfpo.cluster import start as ray_start

    monkeypatch.setattr(ray_start, "join_cluster", lambda *args, **options: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray_start, "gpus_needed", lambda args: 3)
    monkeypatch.setattr(ray_start, "_leave_keys", lambda name: None)
    args = SimpleNamespace(run=SimpleNamespace(allow_open_ray=False, verbose=False))
    with pytest.raises(UsageError, match=r"without GPUs.*--num-gpus=3, which makes logical GPUs"):
        ray_start._join(args)


def test_environment_variables_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants
    from ray._raylet import AuthenticationMode, get_authentication_mode

    from openrlhf_sfpo.cluster.local import LocalSurroundings

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    before = dict(os.environ)
    surroundings = LocalSurroundings()
    try:
        assert get_authentication_mode() == AuthenticationMode.TOKEN
        assert not ray_constants.ENABLE_RAY_CLUSTER
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert token.stat().st_mode & 0o777 == 0o600 and token.parent == surroundings.scratch.path
        assert ray_cluster.token() == token.read_text() and len(token.read_text()) == 64
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo" and "RAY_ADDRESS" not in os.environ
        assert tempfile.gettempdir() == str(surroundings.scratch.temporary)
    finally:
        surroundings.close()
    assert dict(os.environ) == before
    assert get_authentication_mode() == AuthenticationMode.DISABLED
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert not token.parent.exists()
