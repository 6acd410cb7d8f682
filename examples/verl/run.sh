#!/usr/bin/env bash
# GRPO in verl with the SFPO authors' settings (arXiv 2510.04072), or SFPO with the plug-in of this package.
#
#   MODEL=DIR bash examples/verl/run.sh sfpo|grpo [OVERRIDES]
#
# The scripts beside it give it what differs between models. OVERRIDES are verl's; the last one wins. MODEL is a Hugging
# Face directory, DATA the output of to_parquet.py, RUN_DIR where checkpoints go, PYTHON one that has verl.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
algorithm="${1:-}"
data="${DATA:-data/verl}"
case "$algorithm" in sfpo | grpo) shift ;; *)
    echo "run.sh: say sfpo or grpo first" >&2
    exit 2
    ;;
esac

settings=(
    algorithm.adv_estimator=grpo
    algorithm.use_kl_in_reward=False
    data.train_files="$data/train.parquet"
    data.val_files="$data/test.parquet"
    data.train_batch_size=256
    data.filter_overlong_prompts=False
    data.truncation=error
    actor_rollout_ref.model.path="${MODEL:?set MODEL to the directory of the model}"
    actor_rollout_ref.model.use_remove_padding=True
    actor_rollout_ref.model.enable_gradient_checkpointing=True
    actor_rollout_ref.actor.optim.lr=1e-6
    actor_rollout_ref.actor.ppo_mini_batch_size=64
    actor_rollout_ref.actor.use_dynamic_bsz=True
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu=24000
    actor_rollout_ref.actor.use_kl_loss=False
    actor_rollout_ref.actor.entropy_coeff=0.001
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n=8
    actor_rollout_ref.rollout.temperature=1.0
    actor_rollout_ref.rollout.top_p=1.0
    actor_rollout_ref.rollout.tensor_model_parallel_size=1
    actor_rollout_ref.rollout.gpu_memory_utilization=0.7
    actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True
    actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=24000
    actor_rollout_ref.rollout.val_kwargs.n=4
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
    actor_rollout_ref.rollout.val_kwargs.temperature=1.0
    actor_rollout_ref.rollout.val_kwargs.top_p=0.7
    reward.custom_reward_function.path="$here/math_boxed.py"
    trainer.n_gpus_per_node=8
    trainer.nnodes=1
    trainer.total_training_steps=400
    trainer.test_freq=5
    trainer.save_freq=5
    trainer.logger='["console"]'
    trainer.default_local_dir="${RUN_DIR:-runs/verl}"
)
version="$("${PYTHON:-python}" -c 'import importlib.metadata; print(importlib.metadata.version("verl"))')"
case "$version" in 0.7.*) settings+=(++trainer.use_legacy_worker_impl=disable) ;; esac  # its newer workers
if [ "$algorithm" = sfpo ]; then
    # The difference. The plug-in is loaded here by verl in the driver, and through Ray in its workers.
    export VERL_USE_EXTERNAL_MODULES=openrlhf_sfpo.verl
    settings+=(
        +ray_kwargs.ray_init.runtime_env.env_vars.VERL_USE_EXTERNAL_MODULES=openrlhf_sfpo.verl
        +actor_rollout_ref.sfpo.k=3
        +actor_rollout_ref.sfpo.alpha=0.8
        +actor_rollout_ref.sfpo.gate=upper
        +actor_rollout_ref.sfpo.gate_window=30
        +actor_rollout_ref.sfpo.gate_threshold=1.0
    )
fi
exec "${PYTHON:-python}" -m verl.trainer.main_ppo "${settings[@]}" "$@"
