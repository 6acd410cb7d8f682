#!/usr/bin/env bash
# Sets everything up (requirements/install.sh) and runs the tests. Arguments go to pytest:
#
#   bash tests/run.sh              all but the slow ones
#   bash tests/run.sh --slow       those too
#   bash tests/run.sh -k reposition
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VENV:-$root/.venv}"

bash "$root/requirements/install.sh" "$venv"
cd "$root"
exec "$venv/bin/python" -m pytest "$@"
