#!/usr/bin/env bash
# Qwen3-4B-Base in verl, with the SFPO authors' settings: run.sh says how.
#
#   MODEL=DIR bash examples/verl/qwen3-4b-base.sh sfpo|grpo [OVERRIDES]
set -euo pipefail
algorithm="${1:-}"
settings=(data.max_prompt_length=2048 data.max_response_length=6144)
if [ "$algorithm" = sfpo ]; then settings+=(actor_rollout_ref.sfpo.alpha=0.9); fi
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" "$algorithm" "${settings[@]}" "${@:2}"
