"""What a killed compilation of DeepSpeed's operators leaves behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_sfpo.deepspeed.compiled_ops import check_locks
from openrlhf_sfpo.system.errors import UsageError

COMPILING = """
import sys, time
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("compiling", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("variable", ["TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME", "HOME"])
def test_the_lock_of_a_killed_compilation_is_reported(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    from torch.utils.cpp_extension import _get_build_directory

    check_locks()
    lock = Path(_get_build_directory("fused_adam", False)) / "lock"
    assert lock.is_relative_to(tmp_path)
    check_locks()
    compiling = subprocess.Popen([sys.executable, "-c", COMPILING, str(lock)], stdout=subprocess.PIPE)
    try:
        assert compiling.stdout is not None
        assert compiling.stdout.readline() == b"compiling\n"
        check_locks()  # the lock's owner is still compiling
    finally:
        compiling.kill()
        compiling.communicate()
    with pytest.raises(UsageError) as caught:
        check_locks()
    assert caught.value.flag == "backend"
    assert str(caught.value).endswith(f"rm {lock}")
    lock.unlink()
    check_locks()
