#!/usr/bin/env bash
# SFPO on Qwen2.5-32B, on four nodes of 8 H100.
#
#   bash examples/qwen2.5-32b.sh --dry-run    # checks flags, memory and placement; needs no GPU
#   bash examples/qwen2.5-32b.sh              # the same command continues an interrupted run
#
# More flags of `openrlhf-sfpo train` may follow; they win over those below. MODEL, DATA, RUN_DIR, NODES and what a run
# needs: examples/README.md. A checkpoint takes 393 GB. Not yet run on GPUs, and not trained by the SFPO authors.
set -euo pipefail

NODES="${NODES:-4}" # of 8 H100 with 80 GB, in one Ray cluster
recipes="$(dirname "${BASH_SOURCE[0]}")/recipes"

flags=(
    --config "$recipes/paper.yaml" --config "$recipes/colocated-8xh100.yaml"

    # An engine has 4 GPUs. TP 8 stays within a node, data parallelism goes between nodes.
    --actor.num_nodes "$NODES" --vllm.num_engines "$((NODES * 2))" --vllm.tensor_parallel_size 4
    --megatron.tensor_model_parallel_size 8
)
exec bash "$recipes/train.sh" Qwen2.5-32B "${flags[@]}" "$@"
