#!/usr/bin/env bash
# Runs the image on this machine's GPUs. Arguments are what docker/entrypoint.sh takes:
#
#   docker/run.sh doctor
#   docker/run.sh qwen2.5-math-1.5b.sh --dry-run     an example; MODEL, DATA, RUN_DIR and flags as it takes them
#   docker/run.sh --actor.model_name_or_path models/M ...    flags of `openrlhf-sfpo train`
#   docker/run.sh ray start --head --block           the first node of a cluster; on the others
#   docker/run.sh ray start --address FIRST_NODE:6379 --block
#
# Environment:
#   IMAGE        default: openrlhf-sfpo
#   WORKSPACE    directory with models/, data/ and runs/; /workspace in the container, where it starts (default: here)
#   GPUS         what docker run --gpus takes (default: all)
#   NAME         of the container (default: Docker chooses)
#   CODE         a checkout to run instead of the code in the image (default: none)
#   DOCKER_ARGS  more words for docker run, split at spaces: "-d --restart=no"
# MODEL, DATA, RUN_DIR, NODES, RAY_ADDRESS, HF_TOKEN, WANDB_API_KEY and NCCL_* are passed on if they are set.
# `docker stop -t 600 NAME` lets a run end its step and write a checkpoint.
set -euo pipefail

workspace="$(cd "${WORKSPACE:-.}" && pwd)"
options=(
    --rm
    --gpus "${GPUS:-all}"
    --ipc=host                      # NCCL, Ray and the engines' weight transfer use /dev/shm
    --network=host                  # Ray and NCCL between nodes; the dashboard
    --ulimit memlock=-1             # pinned host memory, InfiniBand
    --ulimit stack=67108864
    --ulimit nofile=1048576:1048576 # Ray
    --cap-add SYS_PTRACE            # weights handed over between processes of one GPU; stacks of ranks that hang
    --user "$(id -u):$(id -g)"      # files belong to the caller
    --volume "$workspace:/workspace"
    --workdir /workspace
)
[ -t 0 ] && [ -t 1 ] && options+=(--interactive --tty)
[ -n "${NAME:-}" ] && options+=(--name "$NAME")
[ -n "${CODE:-}" ] && options+=(--volume "$(cd "$CODE" && pwd):/opt/openrlhf_sfpo")
[ -d /dev/infiniband ] && options+=(--device /dev/infiniband)
for name in MODEL DATA RUN_DIR NODES RAY_ADDRESS HF_TOKEN WANDB_API_KEY $(compgen -e NCCL_ || true); do
    [ -n "${!name:-}" ] && options+=(--env "$name")
done
read -r -a more <<<"${DOCKER_ARGS:-}"
exec docker run "${options[@]}" ${more[@]+"${more[@]}"} "${IMAGE:-openrlhf-sfpo}" "$@"
