#!/usr/bin/env bash
# SFPO on Qwen2.5-Math-7B as in the paper (arXiv 2510.04072), on one node of 8 H100.
#
#   bash examples/qwen2.5-math-7b.sh --dry-run    # checks flags, memory and placement; needs no GPU
#   bash examples/qwen2.5-math-7b.sh              # the same command continues an interrupted run
#
# More flags of `openrlhf-sfpo train` may follow; they win over those below. MODEL, DATA, RUN_DIR, NODES and what a run
# needs: examples/README.md. A checkpoint takes 91 GB. Not yet run on GPUs.
set -euo pipefail

NODES="${NODES:-1}" # of 8 H100 with 80 GB
recipes="$(dirname "${BASH_SOURCE[0]}")/recipes"

flags=(
    --config "$recipes/paper.yaml" --config "$recipes/colocated-8xh100.yaml"

    # Paper: shorter than for other models; prompt and response have 1536 + 2560 tokens.
    --rollout.max_new_tokens 2560 --data.max_len 4096
    --vllm.gpu_memory_utilization 0.6 # paper

    # One engine per GPU. TP 2 halves parameters and gradients, which data parallelism does not.
    --actor.num_nodes "$NODES" --vllm.num_engines "$((NODES * 8))"
    --megatron.tensor_model_parallel_size 2
)
exec bash "$recipes/train.sh" Qwen2.5-Math-7B "${flags[@]}" "$@"
