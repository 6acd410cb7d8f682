#!/usr/bin/env bash
# Docker's health check: what `openrlhf-sfpo doctor` says of the container, 0 or 1. Doctor computes on every GPU, which
# is right before a run and wrong during one, so it is asked once, soon after the start, and its answer is kept.
set -uo pipefail

answer="${TMPDIR:-/tmp}/openrlhf_sfpo_doctor-$(id -u)"
if [ ! -f "$answer.status" ]; then
    openrlhf-sfpo doctor >"$answer.txt" 2>&1
    echo $? >"$answer.status"
fi
cat "$answer.txt"
[ "$(cat "$answer.status")" = 0 ]
