#!/usr/bin/env bash
# Submits one of the examples to a running Ray cluster, and shows its output:
#
#   RAY_DASHBOARD=http://HEAD:8265 bash examples/ray_job.sh examples/qwen2.5-32b.sh [FLAGS...]
#
# The run's own process is then on the cluster's head node, and continues if this terminal closes. Code, model, data and
# run directory must have the same paths there: nothing is uploaded. MODEL, DATA, RUN_DIR and NODES are passed on if
# they are set. Given again, the command continues the run. The head must be started with --dashboard-host=0.0.0.0
# to be reached from other machines; or `ssh -L 8265:localhost:8265 HEAD` makes the default address reach it.
#
# Jobs are sent with the token that the cluster was started with: in RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH, in
# .ray-token here (docker/run.sh) or in ~/.ray/auth_token. ALLOW_OPEN_RAY=1 is for a cluster without one, on a network
# that you trust: anyone who reaches its dashboard can run programs there.
#
# If paths differ on the cluster, as in a container (docker/run.sh), REMOTE_DIR is the directory to run in, and
# the script is named as it is called there:
#
#   REMOTE_DIR=/workspace RAY_DASHBOARD=http://HEAD:8265 \
#       bash examples/ray_job.sh /opt/openrlhf_sfpo/examples/qwen2.5-32b.sh [FLAGS...]
#
# `ray job stop` sends SIGTERM, at which a run finishes its step and writes a checkpoint, but kills it after 3 seconds:
# start the head with RAY_JOB_STOP_WAIT_TIME_S=900 in its environment, and give the run --train.grace_seconds 840 (the
# default is 60 s).
set -euo pipefail

[ $# -gt 0 ] || { echo "ray_job.sh: name a script: bash examples/ray_job.sh examples/NAME.sh" >&2; exit 2; }
script="$1"
if [ -z "${REMOTE_DIR:-}" ]; then
    [ -f "$script" ] || { echo "ray_job.sh: there is no $script; for one of the head's set REMOTE_DIR." >&2; exit 2; }
    script="$(cd "$(dirname "$script")" && pwd)/$(basename "$script")"
fi

flags=()
if [ "${ALLOW_OPEN_RAY:-}" = 1 ]; then
    flags+=(--run.allow_open_ray)
else
    if [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ]; then
        for file in "$PWD/.ray-token" "$HOME/.ray/auth_token"; do
            [ ! -s "$file" ] || { export RAY_AUTH_TOKEN_PATH="$file"; break; }
        done
        [ -n "${RAY_AUTH_TOKEN_PATH:-}" ] || { echo "ray_job.sh: there is no token for the cluster. Set" \
            "RAY_AUTH_TOKEN_PATH to the file that it was started with (docs/security.md), or ALLOW_OPEN_RAY=1 if it has" \
            "none and you trust the network." >&2; exit 2; }
    fi
    export RAY_AUTH_MODE=token
fi

settings=()
for name in MODEL DATA RUN_DIR NODES; do
    [ -n "${!name:-}" ] && settings+=("$name=${!name}")
done
# The `cd` keeps relative paths valid. Ray joins the words and gives them to a shell in double quotes, where `$` and
# backticks would be expanded once more; encoded, the command arrives as it was typed. The name is for people who look
# at the job.
command="$(printf '%q ' cd "${REMOTE_DIR:-$PWD}") && exec env $(printf '%q ' ${settings[@]+"${settings[@]}"} bash "$script" "${@:2}" ${flags[@]+"${flags[@]}"})"
encoded="$(printf %s "$command" | base64 | tr -d '\n')"
name="$(basename "$script" | tr -c 'A-Za-z0-9._\n-' _)"
exec ray job submit --address "${RAY_DASHBOARD:-http://127.0.0.1:8265}" -- bash -c ". <(base64 -d <<<$encoded)" "$name"
