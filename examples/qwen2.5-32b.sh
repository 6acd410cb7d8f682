#!/usr/bin/env bash
# SFPO on Qwen2.5-32B, on four nodes of 8 H100.
#
#   bash examples/qwen2.5-32b.sh [--dry-run] [FLAGS]    # as recipes/train.sh describes
#
# A checkpoint takes 393 GB. Not yet run on GPUs, and not trained by the SFPO authors.
set -euo pipefail

NODES="${NODES:-4}" # of 8 H100 with 80 GB, in one Ray cluster
recipes="$(dirname "${BASH_SOURCE[0]}")/recipes"

# An engine has 4 GPUs. TP 8 stays within a node, data parallelism goes between nodes.
exec bash "$recipes/train.sh" Qwen2.5-32B \
    --config "$recipes/paper.yaml" --config "$recipes/colocated-8xh100.yaml" \
    --actor.num_nodes "$NODES" --vllm.num_engines "$((NODES * 2))" --vllm.tensor_parallel_size 4 \
    --megatron.tensor_model_parallel_size 8 \
    "$@"
