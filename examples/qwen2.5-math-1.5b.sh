#!/usr/bin/env bash
# SFPO on Qwen2.5-Math-1.5B as in the paper (arXiv 2510.04072), on one node of 8 H100.
#
#   bash examples/qwen2.5-math-1.5b.sh [--dry-run] [FLAGS]    # as recipes/train.sh describes
#
# A checkpoint takes 19 GB. Not yet run on GPUs.
set -euo pipefail

NODES="${NODES:-1}" # of 8 H100 with 80 GB
recipes="$(dirname "${BASH_SOURCE[0]}")/recipes"

# One engine per GPU. The 1.5 B parameters fit on each GPU: data parallelism only.
exec bash "$recipes/train.sh" Qwen2.5-Math-1.5B \
    --config "$recipes/paper.yaml" --config "$recipes/colocated-8xh100.yaml" --config "$recipes/qwen2.5-math.yaml" \
    --actor.num_nodes "$NODES" --vllm.num_engines "$((NODES * 8))" \
    --megatron.tensor_model_parallel_size 1 \
    --train.max_tokens_per_gpu 16384 \
    "$@"
