#!/usr/bin/env bash
# Docker's health check: whether the container has what every run needs, 0 or 1. It takes no GPU memory and computes
# nothing, because it is asked again and again while engines measure what is free. `docker/run.sh doctor`, before a run,
# is the full check.
#
# Environment: HEALTHCHECK_SECONDS, how long each question may take (default: 20; the Dockerfile allows 90 for all).
set -uo pipefail

seconds="${HEALTHCHECK_SECONDS:-20}"
status=0

# say WHAT FIX COMMAND...: one line about WHAT. A driver that hangs is reported before Docker ends this script.
say() {
    local what="$1" fix="$2" answer
    if answer="$(timeout --kill-after=2 "$seconds" "${@:3}" 2>&1)"; then
        echo "ok     $what: ${answer//$'\n'/; }"
    else
        echo "ERROR  $what: ${answer:-no answer within $seconds s}. $fix"
        status=1
    fi
}

enough_shared_memory() {
    local mebibytes
    mebibytes="$(df --output=size --block-size=1M /dev/shm | tail -n 1 | tr -d ' ')" || return 1
    echo "$mebibytes MiB"
    [ "$mebibytes" -ge 8192 ]
}
export -f enough_shared_memory

say "GPUs" "Start it with docker run --gpus all, and look at nvidia-smi on the host." nvidia-smi -L
say "/dev/shm" "Start it with docker run --ipc=host or --shm-size=16g." bash -c enough_shared_memory
say "packages" "Build the image anew, or look at the checkout in CODE." openrlhf-sfpo --version
exit "$status"
