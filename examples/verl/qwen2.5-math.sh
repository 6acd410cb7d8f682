#!/usr/bin/env bash
# Qwen2.5-Math-1.5B or 7B in verl, with the SFPO authors' settings: run.sh says how.
#
#   MODEL=DIR bash examples/verl/qwen2.5-math.sh sfpo|grpo [OVERRIDES]
set -euo pipefail
algorithm="${1:-}"
settings=(data.max_prompt_length=1536 data.max_response_length=2560)
settings+=(actor_rollout_ref.rollout.gpu_memory_utilization=0.6)
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" "$algorithm" "${settings[@]}" "${@:2}"
