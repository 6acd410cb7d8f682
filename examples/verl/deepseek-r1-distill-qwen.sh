#!/usr/bin/env bash
# DeepSeek-R1-Distill-Qwen-1.5B or 7B in verl, with the SFPO authors' settings: run.sh says how.
#
#   MODEL=DIR bash examples/verl/deepseek-r1-distill-qwen.sh sfpo|grpo [OVERRIDES]
set -euo pipefail
algorithm="${1:-}"
settings=(data.max_prompt_length=2048 data.max_response_length=6144)
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" "$algorithm" "${settings[@]}" "${@:2}"
