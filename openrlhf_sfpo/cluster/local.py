"""The environment of the Ray that a run starts on its own machine: accessible only from this machine, with a token, and
with all its files in one directory."""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

from openrlhf_sfpo.cluster import address as ray_cluster
from openrlhf_sfpo.system import loopback, search_path
from openrlhf_sfpo.system.home import compiler_cache, ensure_home
from openrlhf_sfpo.system.replaced_names import REPLACEMENTS
from openrlhf_sfpo.system.replacements import install as replace
from openrlhf_sfpo.system.scratch import Scratch, name_shared_memory


class LocalSurroundings:
    """The environment variables that Ray and its workers inherit, and their temporary directory, until `close`.

    Raises:
        UsageError: there is no usable directory for temporary files.
    """

    def __init__(self) -> None:
        ensure_home()
        self.scratch = Scratch()
        token = self.scratch.path / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        changes: dict[str, str | None] = {
            **loopback.environment(),
            # Other users of this machine can reach its loopback interface, too.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_AUTH_TOKEN": None,
            "RAY_ADDRESS": None,  # if it is "local", workers would use that as an address
            # Ray's default of 5 s may be too short for a connection on a busy machine.
            "RAY_gcs_rpc_server_connect_timeout_s": "60",
            **self.scratch.environment(),
            **compiler_cache(),
            **search_path.ENVIRONMENT,
        }
        self._before = {name: os.environ.get(name) for name in changes}
        _set(changes)
        tempfile.tempdir = None  # Python reads TMPDIR only once
        name_shared_memory()
        from ray._private import ray_constants

        self._clustered = ray_constants.ENABLE_RAY_CLUSTER
        self._set_clustered(False)

    def close(self) -> None:
        """Restore the environment, and remove the temporary directory."""
        _set(self._before)
        tempfile.tempdir = None
        self._set_clustered(self._clustered)
        self.scratch.close()

    def _set_clustered(self, clustered: bool) -> None:
        """Set Ray's constant and make it read RAY_AUTH_* again: Ray reads these variables only on import."""
        replace(REPLACEMENTS["ray._private.ray_constants.ENABLE_RAY_CLUSTER"], clustered)
        ray_cluster.read_settings_again()


def keep_ray_logs(session: Path, target: Path) -> Path:
    """Copy the logs of a Ray session that is about to be removed, without links; return the target.

    Args:
        session: Ray's session directory.
        target: replaced if it exists, for example after an earlier failure.
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
