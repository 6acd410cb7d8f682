#!/usr/bin/env bash
# Installs everything (requirements/install.sh), runs the gates (tests/gates.sh) and the tests:
#
#   bash tests/run.sh              all tests but the slow ones
#   bash tests/run.sh --slow       the slow ones too
#   bash tests/run.sh --quick      a few minutes of tests, to check a single change
#
# Other arguments go to pytest, without the gates:
#
#   bash tests/run.sh -k reposition
#   bash tests/run.sh tests/megatron
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VENV:-$root/.venv}"

bash "$root/requirements/install.sh" "$venv"
cd "$root"
status=0
case "$*" in "" | --slow | --quick) bash tests/gates.sh || status=1 ;; esac
"$venv/bin/python" -m pytest "$@" || status=$?
[ $status = 0 ] || exit $status
