#!/usr/bin/env bash
# SFPO on Qwen2.5-72B, on eight nodes of 8 H100.
#
#   bash examples/qwen2.5-72b.sh [--dry-run] [FLAGS]    # as recipes/train.sh describes
#
# A checkpoint takes 873 GB. Not yet run on GPUs, and not trained by the SFPO authors.
set -euo pipefail

NODES="${NODES:-8}" # of 8 H100 with 80 GB; 4, 8, 12...; in one Ray cluster
recipes="$(dirname "${BASH_SOURCE[0]}")/recipes"

# An engine has the 8 GPUs of a node. TP 8 stays within a node; PP 4, which sends little between nodes, and data
# parallelism go beyond it.
exec bash "$recipes/train.sh" Qwen2.5-72B \
    --config "$recipes/paper.yaml" --config "$recipes/colocated-8xh100.yaml" \
    --actor.num_nodes "$NODES" --vllm.num_engines "$NODES" --vllm.tensor_parallel_size 8 \
    --megatron.tensor_model_parallel_size 8 --megatron.pipeline_model_parallel_size 4 \
    "$@"
