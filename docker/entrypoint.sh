#!/usr/bin/env bash
# What the container does with its words:
#
#   --FLAGS...                  openrlhf-sfpo train --FLAGS...
#   train|eval|doctor|... ...   that command of openrlhf-sfpo
#   NAME.sh [FLAGS...]          an example of examples/, with its environment variables (docker run -e MODEL=...)
#   anything else               is run as it is: bash, ray start --head --block, ...
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# docker run --user NUMBER: a user without a name or a home. Caches go into the home, and torch asks for the name.
if [ ! -w "${HOME:-/}" ]; then
    HOME="${TMPDIR:-/tmp}/home-$(id -u)"
    export HOME
    mkdir -p "$HOME"
fi
export USER="${USER:-$(id -un 2>/dev/null || echo "user$(id -u)")}"

case "${1:---help}" in
    -h | --help) exec openrlhf-sfpo --help ;;
    -*) exec openrlhf-sfpo train "$@" ;;
    */*) exec "$@" ;;
    *.sh) [ -f "$root/examples/$1" ] && exec bash "$root/examples/$1" "${@:2}" ;;
esac
# Not piped into grep, which leaves at the first match: Python would then fail, and pipefail would hide the match.
commands="$(openrlhf-sfpo --help)"
if [[ "$commands" == *$'\n'"  $1 "* ]]; then
    exec openrlhf-sfpo "$@"
fi
exec "$@"
