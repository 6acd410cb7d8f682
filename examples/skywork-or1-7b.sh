#!/usr/bin/env bash
# SFPO on DeepSeek-R1-Distill-Qwen-7B with Skywork-OR1's problems, rewards and stages (arXiv 2505.22312), on one node
# of 8 H100.
#
#   bash examples/skywork-or1-7b.sh [--dry-run] [FLAGS]    # as recipes/train.sh describes
#
# A checkpoint takes 91 GB. Not yet run on GPUs. The problems, once:
#
#   hf download --repo-type dataset Skywork/Skywork-OR1-RL-Data --local-dir data/skywork-or1
set -euo pipefail

NODES="${NODES:-1}" # of 8 H100 with 80 GB
recipes="$(dirname "${BASH_SOURCE[0]}")/recipes"
export RUN_DIR="${RUN_DIR:-$PWD/runs/skywork-or1-7b}"

# One engine per GPU. TP 2 halves parameters and gradients, which data parallelism does not.
exec bash "$recipes/skywork-or1.sh" DeepSeek-R1-Distill-Qwen-7B \
    --actor.num_nodes "$NODES" --vllm.num_engines "$((NODES * 8))" \
    --megatron.tensor_model_parallel_size 2 \
    "$@"
