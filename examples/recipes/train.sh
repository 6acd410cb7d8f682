#!/usr/bin/env bash
# Every model's script is this command with the settings for its model: `openrlhf-sfpo train` with the paths of model,
# data and run directory.
#
#   bash examples/MODEL.sh --dry-run                     # checks flags, memory and placement; needs no GPU
#   bash examples/MODEL.sh [FLAGS]                       # the same command continues an interrupted run
#   bash examples/recipes/train.sh NAME [FLAGS]          # another model, with FLAGS for all of its settings
#
# FLAGS are those of `openrlhf-sfpo train`, and win over a script's own. It runs the openrlhf-sfpo on the PATH, or else
# the one in the repository's .venv. What a run needs: examples/README.md. Environment:
#   MODEL      a Hugging Face directory (default: models/NAME)
#   DATA       the output of examples/prepare_math.py (default: data)
#   RUN_DIR    metrics, checkpoints, the final model (default: runs/NAME in lower case)
#   NODES      of a model's script: nodes in one Ray cluster (default: in the script)
set -euo pipefail

name="$1"
data="${DATA:-$PWD/data}"
command="$(command -v openrlhf-sfpo || echo "$(dirname "${BASH_SOURCE[0]}")/../../.venv/bin/openrlhf-sfpo")"
[ -x "$command" ] || {
    echo "train.sh: openrlhf-sfpo is not on PATH; run requirements/install.sh, then: source .venv/bin/activate" >&2
    exit 127
}
exec "$command" train \
    --actor.model_name_or_path "${MODEL:-$PWD/models/$name}" \
    --data.prompt_dataset "$data/train.jsonl" \
    --eval.dataset "$data/eval.jsonl" \
    --run.dir "${RUN_DIR:-$PWD/runs/${name,,}}" \
    "${@:2}"
