#!/usr/bin/env bash
# SFPO in an existing installation of OpenRLHF, on its own DeepSpeed actor, on a machine without GPUs.
#
#   bash examples/existing_deployment/on_cpu.sh [FLAGS...]
#
# Installs everything (or uses the environment in VENV as it is), patches the installed OpenRLHF, trains the testbed's
# model on two ZeRO-2 ranks with OpenRLHF's own command line, and reverts the patch. FLAGS win over those below.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
venv="${VENV:-$root/.venv}"
testbed="${TESTBED:-$root/runs/testbed}"
[ -n "${VENV:-}" ] || bash "$root/requirements/install.sh" "$venv"
[ -e "$testbed/model/config.json" ] || "$venv/bin/python" "$root/examples/testbed/prepare.py" "$testbed"

"$venv/bin/openrlhf-sfpo" patch
trap '"$venv/bin/openrlhf-sfpo" patch --revert' EXIT

"$venv/bin/python" -m openrlhf.cli.train_ppo_ray \
    --actor.model_name_or_path "$testbed/model" \
    --actor.num_gpus_per_node 2 \
    --actor.adam.lr 3e-5 \
    --actor.lr_scheduler constant \
    --ds.zero_stage 2 \
    --vllm.num_engines 1 \
    --vllm.enforce_eager \
    --data.prompt_dataset "$testbed/train.jsonl" \
    --data.input_key prompt \
    --data.label_key label \
    --data.max_len 24 \
    --data.max_samples 320 \
    --reward.remote_url "$root/examples/existing_deployment/reward.py" \
    --rollout.batch_size 16 \
    --rollout.n_samples_per_prompt 8 \
    --rollout.max_new_tokens 6 \
    --rollout.micro_batch_size 32 \
    --train.batch_size 128 \
    --train.micro_batch_size 32 \
    --algo.advantage.estimator group_norm \
    --algo.kl.init_coef 0 \
    --ckpt.output_dir "$testbed/existing_deployment" \
    --sfpo.enable \
    --sfpo.k 3 \
    --sfpo.alpha 0.8 \
    "$@"
