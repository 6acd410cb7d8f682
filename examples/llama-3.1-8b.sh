#!/usr/bin/env bash
# SFPO on Llama-3.1-8B, asynchronously: engines on half of the GPUs of one node of 8 H100, the actor on the other half.
#
#   bash examples/llama-3.1-8b.sh [--dry-run] [FLAGS]    # as recipes/train.sh describes
#
# A checkpoint takes 96 GB. Not yet run on GPUs, and not trained by the SFPO authors.
set -euo pipefail

NODES="${NODES:-1}" # of 8 H100 with 80 GB
recipes="$(dirname "${BASH_SOURCE[0]}")/recipes"

# The template stands in for the chat template that a base model lacks. One engine per GPU of the engines' half. TP 4,
# because the optimizer state is spread over 4 GPUs here, not 8; the slow copy is in host memory.
exec bash "$recipes/train.sh" Llama-3.1-8B \
    --config "$recipes/paper.yaml" --config "$recipes/async-8xh100.yaml" \
    --no-data.apply_chat_template --data.input_template '<|begin_of_text|>{}' \
    --actor.num_nodes "$NODES" --vllm.num_engines "$((NODES * 4))" \
    --megatron.tensor_model_parallel_size 4 \
    --sfpo.snapshot_device cpu \
    "$@"
