"""What every Ray worker process of a run does first (Ray's worker_process_setup_hook)."""

import json
import os
import tempfile
import warnings
from pathlib import Path

from openrlhf_sfpo.cluster.nodes import this_node
from openrlhf_sfpo.system import flash_attn_stub
from openrlhf_sfpo.system.home import have_home
from openrlhf_sfpo.system.scratch import VARIABLE, name_shared_memory

# Names the entry of Ray's key-value store in which a driver that joined a cluster has left its keys.
KEYS_VARIABLE = "OPENRLHF_SFPO_KEYS"


def setup() -> None:
    """Make OpenRLHF importable without CUDA, and see to temporary files, caches and keys. Runs before the worker
    unpickles anything."""
    flash_attn_stub.install_if_missing()
    warnings.filterwarnings("ignore", message=".*(Apex|Transformer Engine).*not installed.*")
    name_shared_memory()
    if VARIABLE not in os.environ:  # a node of a cluster that was there before
        _use_session_directory()
        _take_keys()


def _use_session_directory() -> None:
    """Temporary files go into the session's directory on this node, if sockets fit there, and so does a home."""
    session = Path(this_node().get_session_dir_path())
    directory = session / "tmp"
    # Python's and vLLM's sockets have names of up to 37 bytes.
    if len(os.fsencode(directory)) + 38 <= 107:
        directory.mkdir(exist_ok=True)
        os.environ["TMPDIR"] = str(directory)
        tempfile.tempdir = None
    have_home(session / f"home-{os.getuid()}")


def _take_keys() -> None:
    from ray.experimental.internal_kv import _internal_kv_get

    name = os.environ.get(KEYS_VARIABLE)
    found = _internal_kv_get(name.encode()) if name else None
    if found:
        os.environ.update(json.loads(found))
