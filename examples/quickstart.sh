#!/usr/bin/env bash
# SFPO end to end on one machine without a GPU: SmolLM2-135M-Instruct learns small sums.
#
#   bash examples/quickstart.sh [RUN_DIR [FLAGS...]]
#
# Installs everything by itself (requirements/install.sh), then trains. RUN_DIR defaults to runs/quickstart-TIME. FLAGS go
# to `openrlhf-sfpo train` and win over those below; --run.verbose shows everything that Ray, vLLM and transformers print.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
run_dir="${1:-$root/runs/quickstart-$(date +%Y%m%d-%H%M%S)}"
model="$root/models/SmolLM2-135M-Instruct"
venv="${VENV:-$root/.venv}"

case "$run_dir" in -*)
    echo "quickstart.sh: usage: bash examples/quickstart.sh [RUN_DIR [FLAGS...]]; $run_dir is no directory." >&2
    exit 2 ;;
esac

bash "$root/requirements/install.sh" "$venv"

if [ ! -e "$model/config.json" ]; then
    echo "Unpacking the model into $model"
    log="$(mktemp)"
    "$venv/bin/python" -m openrlhf_sfpo.tasks.smollm2 "$model" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
    rm -f "$log"
fi

# There are 200 sums and differences of two one-digit numbers. Repetitions and training problems are left out of the 3000
# evaluation problems, which leaves those of the 200 that are not trained on.
problems="reasoning_gym:chain_sum?min_digits=1&max_digits=1&min_terms=2&max_terms=2"

exec "$venv/bin/openrlhf-sfpo" train \
    --run.dir "$run_dir" \
    --actor.model_name_or_path "$model" \
    --actor.num_gpus_per_node 2 \
    --megatron.pipeline_model_parallel_size 2 \
    --vllm.num_engines 1 \
    --vllm.enforce_eager \
    --sfpo.k 3 \
    --sfpo.alpha 0.8 \
    --actor.adam.lr 1e-5 \
    --actor.lr_scheduler constant \
    --data.prompt_dataset "$problems&size=64&seed=1" \
    --data.input_key expression \
    --data.input_template $'Calculate: {}\nResult:' \
    --data.max_len 32 \
    --reward.remote_url last_integer \
    --rollout.batch_size 8 \
    --rollout.n_samples_per_prompt 8 \
    --rollout.max_new_tokens 4 \
    --train.batch_size 64 \
    --train.max_tokens_per_gpu 208 \
    --eval.dataset "$problems&size=3000&seed=100000" \
    --eval.n_samples_per_prompt 3 \
    --eval.temperature 1.0 \
    --ckpt.best_metric_key none \
    --ckpt.save_steps 4 \
    --ckpt.max_num 1 \
    "${@:2}"
