#!/usr/bin/env bash
# SFPO on DeepSeek-R1-Distill-Qwen-7B as in the paper (arXiv 2510.04072), on one node of 8 H100.
#
#   bash examples/deepseek-r1-distill-qwen-7b.sh --dry-run    # checks flags, memory and placement; needs no GPU
#   bash examples/deepseek-r1-distill-qwen-7b.sh              # the same command continues an interrupted run
#
# More flags of `openrlhf-sfpo train` may follow; they win over those below. MODEL, DATA, RUN_DIR, NODES and what a run
# needs: examples/README.md. A checkpoint takes 91 GB. Not yet run on GPUs.
set -euo pipefail

NODES="${NODES:-1}" # of 8 H100 with 80 GB
recipes="$(dirname "${BASH_SOURCE[0]}")/recipes"

flags=(
    --config "$recipes/paper.yaml" --config "$recipes/colocated-8xh100.yaml"

    # One engine per GPU. TP 2 halves parameters and gradients, which data parallelism does not.
    --actor.num_nodes "$NODES" --vllm.num_engines "$((NODES * 8))"
    --megatron.tensor_model_parallel_size 2
)
exec bash "$recipes/train.sh" DeepSeek-R1-Distill-Qwen-7B "${flags[@]}" "$@"
