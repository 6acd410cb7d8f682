#!/usr/bin/env bash
# Every model's script ends with this: `openrlhf-sfpo train` with the paths of model, data and run directory.
#
#   bash examples/recipes/train.sh NAME [FLAGS]
#
# FLAGS win over the paths. It runs the openrlhf-sfpo on the PATH, or else the one in the repository's .venv. Environment:
#   MODEL      a Hugging Face directory (default: models/NAME)
#   DATA       the output of examples/prepare_math.py (default: data)
#   RUN_DIR    metrics, checkpoints, the final model (default: runs/NAME in lower case)
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
