#!/usr/bin/env bash
# SFPO on Qwen3-4B-Base as in the paper (arXiv 2510.04072), on one node of 8 H100.
#
#   bash examples/qwen3-4b-base.sh [--dry-run] [FLAGS]    # as recipes/train.sh describes
#
# A checkpoint takes 48 GB. Not yet run on GPUs.
set -euo pipefail

NODES="${NODES:-1}" # of 8 H100 with 80 GB
recipes="$(dirname "${BASH_SOURCE[0]}")/recipes"

# Alpha 0.9: paper. One engine per GPU. With TP 2, micro-batches hold several of the long samples.
exec bash "$recipes/train.sh" Qwen3-4B-Base \
    --config "$recipes/paper.yaml" --config "$recipes/colocated-8xh100.yaml" \
    --sfpo.alpha 0.9 \
    --actor.num_nodes "$NODES" --vllm.num_engines "$((NODES * 8))" \
    --megatron.tensor_model_parallel_size 2 \
    --train.max_tokens_per_gpu 16384 \
    "$@"
