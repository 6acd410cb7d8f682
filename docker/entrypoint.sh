#!/usr/bin/env bash
# What the container does with its arguments:
#
#   --FLAGS...                  openrlhf-sfpo train --FLAGS...
#   train|eval|doctor|... ...   that command of openrlhf-sfpo
#   NAME.sh [FLAGS...]          an example of examples/, with its environment variables (docker run -e MODEL=...)
#   anything else               runs as it is: bash, ray start --head --block, ...
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# With docker run --user NUMBER the user has no name and no home. Caches need the home, and torch the name.
if [ ! -w "${HOME:-/}" ]; then
    HOME="${TMPDIR:-/tmp}/home-$(id -u)"
    export HOME
    mkdir -p "$HOME"
fi
export USER="${USER:-$(id -un 2>/dev/null || echo "user$(id -u)")}"

# A Ray cluster requires a token (RAY_AUTH_MODE in the Dockerfile): the one in .ray-token here, which the head makes.
if [ "${ALLOW_OPEN_RAY:-}" = 1 ]; then
    export RAY_AUTH_MODE=disabled
elif [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ]; then
    if [[ "$* " == "ray start "*"--head "* ]]; then
        rm -f .ray-token
        (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >.ray-token)
    elif [[ "$* " == "ray start "* ]] && [ ! -s .ray-token ]; then
        echo "entrypoint.sh: there is no .ray-token in $PWD. Start the head first, with the same directory, or set" \
            "RAY_AUTH_TOKEN to the cluster's token." >&2
        exit 2
    fi
    [ ! -s .ray-token ] || export RAY_AUTH_TOKEN_PATH="$PWD/.ray-token"
    export RAY_AUTH_MODE=token
fi

case "${1:---help}" in
    -h | --help) exec openrlhf-sfpo --help ;;
    -*) exec openrlhf-sfpo train "$@" ;;
    */*) exec "$@" ;;
    *.sh) [ -f "$root/examples/$1" ] && exec bash "$root/examples/$1" "${@:2}" ;;
esac
# Not piped into grep, which exits at the first match: Python would then fail, and pipefail would hide the match.
commands="$(openrlhf-sfpo --help)"
if [[ "$commands" == *$'\n'"  $1 "* ]]; then
    exec openrlhf-sfpo "$@"
fi
exec "$@"
