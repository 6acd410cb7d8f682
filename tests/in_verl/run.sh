#!/usr/bin/env bash
# Tests SFPO in verl, in a virtual environment of its own: verl wants other versions than OpenRLHF.
#
#   bash tests/in_verl/run.sh [VERSION] [PYTEST_ARGUMENTS]     0.9.1 (default), 0.8.0 or 0.7.1
#
# Makes the environment from the pinned list beside this file. VENV says where (default: .venv-verl-VERSION), PYTHON with
# which Python 3.11 (default: python3).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
version="${1:-0.9.1}"
list="$here/requirements-$version.txt"
[ -f "$list" ] || { echo "run.sh: there is no list for verl $version: $(cd "$here" && ls requirements-*.txt)" >&2; exit 2; }
venv="${VENV:-$root/.venv-verl-$version}"
stamp="$venv/.installed"
if [ "$(cat "$stamp" 2>/dev/null)" != "$(cat "$list")" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps -r "$list"
    cp "$list" "$stamp"
fi
export PYTHONPATH="$root" OMP_NUM_THREADS=1
cd "$here"
# Not the other tests' fixtures and settings, which need what is not installed here.
exec "$venv/bin/python" -m pytest -c /dev/null --rootdir "$here" --confcutdir "$here" -p no:cacheprovider -q "${@:2}"
