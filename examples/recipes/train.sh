#!/usr/bin/env bash
# What every model's script ends with: `openrlhf-sfpo train` with the paths of model, data and run directory.
#
#   bash examples/recipes/train.sh NAME [FLAGS]
#
# FLAGS win over the paths. Environment:
#   MODEL      a Hugging Face directory (default: models/NAME)
#   DATA       what examples/prepare_math.py has written (default: data)
#   RUN_DIR    metrics, checkpoints, the final model (default: runs/NAME in lower case)
set -euo pipefail

name="$1"
data="${DATA:-$PWD/data}"
exec openrlhf-sfpo train \
    --actor.model_name_or_path "${MODEL:-$PWD/models/$name}" \
    --data.prompt_dataset "$data/train.jsonl" \
    --eval.dataset "$data/eval.jsonl" \
    --run.dir "${RUN_DIR:-$PWD/runs/${name,,}}" \
    "${@:2}"
