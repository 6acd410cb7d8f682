#!/usr/bin/env bash
# SFPO on Qwen2.5-Math-1.5B as in the paper, on one node of 8 H100.
#
#   bash examples/qwen2.5-math-1.5b.sh --dry-run    # checks flags, memory and placement; takes nothing
#   bash examples/qwen2.5-math-1.5b.sh              # the same command continues an interrupted run
#
# More flags of `openrlhf-sfpo train` may follow; they win over those below. What it needs: examples/README.md.
# What is marked "paper" is from the SFPO authors' scripts (arXiv 2510.04072); the rest is ours. Not yet run on GPUs.
set -euo pipefail

MODEL="${MODEL:-$PWD/models/Qwen2.5-Math-1.5B}"                 # a Hugging Face directory
DATA="${DATA:-$PWD/data}"                                       # what examples/prepare_math.py has written
RUN_DIR="${RUN_DIR:-$PWD/runs/qwen2.5-math-1.5b}"               # metrics, checkpoints, the final model
NODES="${NODES:-1}"                                             # of 8 H100 with 80 GB

flags=(
    --actor.model_name_or_path "$MODEL"
    --run.dir "$RUN_DIR"

    # Problems: paper. The wording of the prompt: ours.
    --data.prompt_dataset "$DATA/train.jsonl"
    --data.input_key prompt
    --data.label_key label
    --data.apply_chat_template
    --reward.remote_url math_boxed          # paper: 1 if right, 0.1 if wrong in \boxed{}, else 0

    # Rollouts: paper.
    --rollout.batch_size 256
    --rollout.n_samples_per_prompt 8
    --rollout.temperature 1.0
    --rollout.top_p 1.0
    --rollout.max_new_tokens 2560
    --data.max_len 4096                     # prompt and response: 1536 + 2560

    # The update: paper. (No KL term; the learning rate is constant from the first step.)
    --sfpo.k 3
    --sfpo.alpha 0.8
    --sfpo.gate upper
    --sfpo.gate_window 30
    --sfpo.gate_threshold 1.0
    --train.batch_size 512                  # 64 prompts x 8: four optimizer steps in each of the K + 1 passes
    --train.num_episodes 4                  # paper: 400 steps, which is four times the problems
    --actor.adam.lr 1e-6
    --actor.lr_scheduler constant
    --actor.lr_warmup_ratio 0
    --actor.adam.betas 0.9 0.999
    --actor.adam.weight_decay 0.01
    --actor.max_norm 1.0
    --actor.eps_clip 0.2
    --actor.entropy_coef 0.001
    --algo.advantage.estimator group_norm
    --algo.kl.init_coef 0

    # Every 5 steps, 4 samples to each problem at temperature 1 and top_p 0.7: paper.
    --eval.dataset "$DATA/eval.jsonl"
    --eval.steps 5
    --eval.n_samples_per_prompt 4
    --eval.temperature 1.0
    --eval.top_p 0.7

    # Checkpoints: 12 bytes a parameter, so 19 GB each. The best one on MATH-500 stays as well.
    --ckpt.save_steps 20
    --ckpt.max_num 2
    --ckpt.best_metric_key eval_math500_pass1

    # Placement: engines and actor share the GPUs and take turns. A step is mostly rollouts, for which all GPUs
    # generate; then all train. 1.5 B parameters fit each GPU whole: data parallelism only.
    --train.colocate_all
    --vllm.enable_sleep
    --ds.enable_sleep
    --vllm.num_engines "$((NODES * 8))"
    --vllm.tensor_parallel_size 1
    --vllm.gpu_memory_utilization 0.6       # paper
    --actor.num_nodes "$NODES"
    --actor.num_gpus_per_node 8
    --megatron.tensor_model_parallel_size 1
    --train.max_tokens_per_gpu 16384        # of a micro-batch; samples are packed
)
exec openrlhf-sfpo train "${flags[@]}" "$@"
