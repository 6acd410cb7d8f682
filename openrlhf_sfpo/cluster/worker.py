"""The setup of every Ray worker process of a run (Ray's worker_process_setup_hook)."""

import json
import os
import tempfile
import warnings
from pathlib import Path

from openrlhf_sfpo.cluster.nodes import this_node
from openrlhf_sfpo.system import flash_attn_stub
from openrlhf_sfpo.system.home import ensure_home
from openrlhf_sfpo.system.scratch import VARIABLE, name_shared_memory

# Names the entry of Ray's key-value store with the keys of a driver that joined a cluster.
KEYS_VARIABLE = "OPENRLHF_SFPO_KEYS"


def setup() -> None:
    """Make OpenRLHF importable without CUDA, and set up temporary files, caches and keys. Runs before the worker
    unpickles anything."""
    flash_attn_stub.install_if_missing()
    warnings.filterwarnings("ignore", message=".*(Apex|Transformer Engine).*not installed.*")
    name_shared_memory()
    if VARIABLE not in os.environ:  # a node of an existing cluster
        _use_session_directory()
        _take_keys()


def _use_session_directory() -> None:
    """Put temporary files (if socket paths fit there) and, if needed, a home into the session's directory on this
    node."""
    session = Path(this_node().get_session_dir_path())
    directory = session / "tmp"
    # Names of Python's and vLLM's sockets have up to 37 bytes.
    if len(os.fsencode(directory)) + 38 <= 107:
        directory.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = str(directory)
        tempfile.tempdir = None
    ensure_home(session / f"home-{os.getuid()}")


def _take_keys() -> None:
    from ray.experimental.internal_kv import _internal_kv_get

    name = os.environ.get(KEYS_VARIABLE)
    found = _internal_kv_get(name.encode()) if name else None
    if found:
        os.environ.update(json.loads(found))
