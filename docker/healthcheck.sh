#!/usr/bin/env bash
# Docker's health check: exits with 0 if the container has what every run needs, else with 1. `doctor --quick` takes no
# GPU memory and computes nothing, because it runs repeatedly while engines measure free memory. `docker/run.sh doctor`,
# before a run, is the full check.
#
# Environment: HEALTHCHECK_SECONDS, how long each check may take (default: 40; the Dockerfile allows 90 for both).
set -uo pipefail

seconds="${HEALTHCHECK_SECONDS:-40}"
status=0

# ask WHAT FIX COMMAND...: a driver that hangs is reported before Docker ends this script.
ask() {
    timeout --kill-after=2 "$seconds" "${@:3}" 2>&1 && return
    local code=$?
    [ "$code" != 124 ] || echo "no answer within $seconds s"
    echo "ERROR $1. $2"
    status=1
}

ask "GPUs" "Start it with docker run --gpus all, and look at nvidia-smi on the host." nvidia-smi -L
ask "doctor" "docker/run.sh doctor tells more." openrlhf-sfpo doctor --quick
exit "$status"
