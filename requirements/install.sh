#!/usr/bin/env bash
# Makes a virtual environment with the pinned packages and this package in it. Nothing outside VENV is changed.
#
#   requirements/install.sh [VENV]        VENV defaults to .venv in the repository
#
# PYTHON=/path/to/python picks the interpreter; without it the first of python3.11, python3.12, python3 that is 3.11
# or 3.12 (whose list is resolved but not tested). Running it again does nothing unless a pinned list, this script or
# what this package is built from has changed.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$here")"
venv="${1:-$root/.venv}"
torch=2.13.0
deepspeed=0.19.6
pip=26.3

fail() { echo "install.sh: $*" >&2; exit 1; }

version_of() { "$1" -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null; }

pick_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        case "$(version_of "$candidate")" in 311 | 312) echo "$candidate"; return ;; esac
    done
    fail "needs Python 3.11 or 3.12 (${PYTHON:+$PYTHON is neither; }name one with PYTHON=/path/to/python)."
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "the pinned packages are for Linux on x86_64, and this is $(uname -sm)."
python="$(pick_python)"
list="$here/cpu-py$(version_of "$python").txt"
stamp="$venv/.openrlhf_sfpo"
# What the build of this package reads: the version is in __init__.py.
ours=("$root/setup.py" "$root/pyproject.toml" "$root/openrlhf_sfpo/__init__.py")
wanted="$(cat "$list" "$here/build.txt" "${BASH_SOURCE[0]}" "${ours[@]}" | sha256sum)"
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
command -v cc >/dev/null || command -v gcc >/dev/null ||
    fail "needs a C compiler for pycosat, a dependency of reasoning-gym (Debian: apt install gcc python3-dev)."

started=$SECONDS
say() { printf '[%3d s] %s\n' $((SECONDS - started)) "$*"; }
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
# What pip prints is of interest only when it fails.
quiet_pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@" >"$log" 2>&1; }
pip_or_fail() { quiet_pip "$@" || { tail -n 40 "$log" >&2; fail "pip $1 failed, see above."; }; }

say "virtual environment in $venv ($("$python" --version))"
"$python" -m venv "$venv" || fail "could not make $venv (Debian: apt install python3-venv)."
pip_or_fail install "pip==$pip"

# PyTorch's own index has the CPU build. Where it cannot be reached, whatever pip finds does as well; PyPI's build is
# larger by gigabytes of CUDA libraries, which it needs even where there is no GPU.
say "torch $torch"
if ! quiet_pip install --no-deps --retries 1 --timeout 20 --index-url https://download.pytorch.org/whl/cpu \
        "torch==$torch+cpu"; then
    say "PyTorch's CPU index cannot be reached or lacks it; taking pip's torch==$torch"
    pip_or_fail install "torch==$torch"
fi

say "$(grep -c == "$list") packages of $(basename "$list"), a few minutes"
pip_or_fail install --no-deps --build-constraint "$here/build.txt" -r "$list"
# Apart from the list, because its build must not see the environment: it would look for CUDA in torch.
say "deepspeed $deepspeed"
pip_or_fail install --no-deps --build-constraint "$here/build.txt" "deepspeed==$deepspeed"
say "openrlhf_sfpo"
pip_or_fail install --no-deps --no-build-isolation -e "$root"
echo "$wanted" >"$stamp"
say "installed"
