"""Surroundings of the Ray that a run starts on its own machine: reachable from this machine only, with a token, and
with everything that it leaves in one directory."""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

from openrlhf_sfpo.cluster import address as ray_cluster
from openrlhf_sfpo.system import loopback, search_path
from openrlhf_sfpo.system.home import compiler_cache, have_home
from openrlhf_sfpo.system.replaced_names import REPLACEMENTS
from openrlhf_sfpo.system.replacements import install as replace
from openrlhf_sfpo.system.scratch import Scratch, name_shared_memory


class LocalSurroundings:
    """The environment that Ray and its workers inherit, and their temporary directory, until `close`.

    Raises:
        UsageError: there is no directory for temporary files.
    """

    def __init__(self) -> None:
        have_home()
        self.scratch = Scratch()
        token = self.scratch.path / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        changes: dict[str, str | None] = {
            **loopback.environment(),
            # Other users of this machine reach its loopback interface, too.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_AUTH_TOKEN": None,
            "RAY_ADDRESS": None,  # "local": workers would take it for an address
            # Ray's default is 5 s, which a busy machine may need for a connection.
            "RAY_gcs_rpc_server_connect_timeout_s": "60",
            **self.scratch.environment(),
            **compiler_cache(),
            **search_path.ENVIRONMENT,
        }
        self._before = {name: os.environ.get(name) for name in changes}
        _set(changes)
        tempfile.tempdir = None  # Python has looked at TMPDIR once and keeps what it found
        name_shared_memory()
        from ray._private import ray_constants

        self._clustered = ray_constants.ENABLE_RAY_CLUSTER
        self._set_clustered(False)

    def close(self) -> None:
        """Put the environment back, and remove the temporary directory."""
        _set(self._before)
        tempfile.tempdir = None
        self._set_clustered(self._clustered)
        self.scratch.close()

    def _set_clustered(self, clustered: bool) -> None:
        """Tell a Ray that was imported earlier as well: it reads its environment only then."""
        replace(REPLACEMENTS["ray._private.ray_constants.ENABLE_RAY_CLUSTER"], clustered)
        ray_cluster.read_settings_again()


def keep_ray_logs(session: Path, target: Path) -> Path:
    """Copy the logs of a Ray session that is about to be removed, but for the links in them; return where they are.

    Args:
        session: Ray's session directory.
        target: made anew; what an earlier failure left there is removed.
    """
    shutil.rmtree(target, ignore_errors=True)

    def links(directory: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(directory, name).is_symlink()]

    shutil.copytree(session / "logs", target, ignore=links)
    return target


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
