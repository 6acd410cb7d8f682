#!/usr/bin/env bash
# SFPO on DeepSeek-R1-Distill-Qwen-7B as in the paper (arXiv 2510.04072), on one node of 8 H100.
#
#   bash examples/deepseek-r1-distill-qwen-7b.sh [--dry-run] [FLAGS]    # as recipes/train.sh describes
#
# A checkpoint takes 91 GB. Not yet run on GPUs.
set -euo pipefail

NODES="${NODES:-1}" # of 8 H100 with 80 GB
recipes="$(dirname "${BASH_SOURCE[0]}")/recipes"

# One engine per GPU. TP 2 halves parameters and gradients, which data parallelism does not.
exec bash "$recipes/train.sh" DeepSeek-R1-Distill-Qwen-7B \
    --config "$recipes/paper.yaml" --config "$recipes/colocated-8xh100.yaml" \
    --actor.num_nodes "$NODES" --vllm.num_engines "$((NODES * 8))" \
    --megatron.tensor_model_parallel_size 2 \
    "$@"
