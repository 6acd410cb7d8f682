#!/usr/bin/env bash
# SFPO on Qwen2.5-72B, on eight nodes of 8 H100.
#
#   bash examples/qwen2.5-72b.sh --dry-run    # checks flags, memory and placement; needs no GPU
#   bash examples/qwen2.5-72b.sh              # the same command continues an interrupted run
#
# More flags of `openrlhf-sfpo train` may follow; they win over those below. MODEL, DATA, RUN_DIR, NODES and what a run
# needs: examples/README.md. A checkpoint takes 872 GB. Not yet run on GPUs, and not trained by the SFPO authors.
set -euo pipefail

NODES="${NODES:-8}" # of 8 H100 with 80 GB; 4, 8, 12...; in one Ray cluster
recipes="$(dirname "${BASH_SOURCE[0]}")/recipes"

flags=(
    --config "$recipes/paper.yaml" --config "$recipes/colocated-8xh100.yaml"

    # An engine has the 8 GPUs of a node. TP 8 stays within a node; PP 4, which sends little between nodes, and data
    # parallelism go beyond it.
    --actor.num_nodes "$NODES" --vllm.num_engines "$NODES" --vllm.tensor_parallel_size 8
    --megatron.tensor_model_parallel_size 8 --megatron.pipeline_model_parallel_size 4
)
exec bash "$recipes/train.sh" Qwen2.5-72B "${flags[@]}" "$@"
