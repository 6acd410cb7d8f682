#!/usr/bin/env bash
# Runs the image on this machine's GPUs. Arguments are what docker/entrypoint.sh takes:
#
#   docker/run.sh doctor
#   docker/run.sh qwen2.5-math-1.5b.sh --dry-run     an example; MODEL, DATA, RUN_DIR and flags as it takes them
#   docker/run.sh --actor.model_name_or_path models/M ...    flags of `openrlhf-sfpo train`
#
# On several nodes, each in the same directory of a file system that all of them see:
#
#   NAME=head docker/run.sh ray start --head --block             on the first node
#   docker/run.sh ray start --address FIRST_NODE:6379 --block    on each of the others
#   EXEC=head NODES=4 docker/run.sh qwen2.5-32b.sh               on the first node, once all have started
#
# `ray start --head` makes a token in .ray-token of that directory, where the other nodes and the run find it: without it
# nobody can join the cluster. RAY_AUTH_TOKEN is a token of your own. ALLOW_OPEN_RAY=1, for `ray start` on every node and
# with --run.allow_open_ray for the run, goes without: anyone who reaches the nodes can then run programs as you.
#
# The run has to be in the container of the first node's Ray, whose sockets are in that container's /tmp. Set variables
# of NCCL and the like where `ray start` is called, on every node. With --dashboard-host=0.0.0.0 other machines reach the
# dashboard (port 8265), with the token.
#
# Environment:
#   IMAGE        default: openrlhf-sfpo
#   WORKSPACE    directory with models/, data/ and runs/; /workspace in the container, where it starts (default: here)
#   GPUS         what docker run --gpus takes (default: all)
#   NAME         of the container (default: Docker chooses)
#   EXEC         a running container to start it in, by name, instead of a new one; RAY_ADDRESS is then its own Ray
#   CODE         a checkout to run instead of the code in the image (default: none)
#   DOCKER_ARGS  more arguments for docker run (or docker exec), split at spaces: "-d --restart=no"
# MODEL, DATA, RUN_DIR, NODES, RAY_ADDRESS, RAY_JOB_STOP_WAIT_TIME_S, RAY_AUTH_*, ALLOW_OPEN_RAY, HF_TOKEN, HF_HOME,
# WANDB_API_KEY, WANDB_MODE, NCCL_*, GLOO_* and VLLM_* are passed on if they are set; a directory HF_HOME is also mounted
# in a new container, under the same name.
#
# `docker stop -t 600 NAME` lets a run finish its step and write a checkpoint, if it has --train.grace_seconds 540 (the
# default is 60 s). Docker passes no signals to a run that was started with EXEC, and kills it with the container; this
# stops it:
#   EXEC=head docker/run.sh pkill -TERM -f 'openrlhf-sfpo train'
set -euo pipefail

passed_on=()
names="MODEL DATA RUN_DIR NODES RAY_ADDRESS RAY_JOB_STOP_WAIT_TIME_S ALLOW_OPEN_RAY HF_TOKEN HF_HOME WANDB_API_KEY WANDB_MODE"
for name in $names $(compgen -e | grep -E '^(NCCL|GLOO|VLLM|RAY_AUTH)_' || true); do
    [ -n "${!name:-}" ] && passed_on+=(--env "$name")
done
[ -t 0 ] && [ -t 1 ] && passed_on+=(--interactive --tty)
read -r -a more <<<"${DOCKER_ARGS:-}"

if [ -n "${EXEC:-}" ]; then
    [ -n "${RAY_ADDRESS:-}" ] || passed_on+=(--env RAY_ADDRESS=auto) # the Ray that runs in the container
    exec docker exec --workdir /workspace ${passed_on[@]+"${passed_on[@]}"} ${more[@]+"${more[@]}"} \
        "$EXEC" /opt/openrlhf_sfpo/docker/entrypoint.sh "$@"
fi

workspace="$(cd "${WORKSPACE:-.}" && pwd)"
options=(
    --rm
    --gpus "${GPUS:-all}"
    --ipc=host                      # NCCL, Ray and the engines' weight transfer use /dev/shm
    --network=host                  # Ray and NCCL between nodes; the dashboard
    --ulimit memlock=-1             # pinned host memory, InfiniBand
    --ulimit stack=67108864
    --ulimit nofile=1048576:1048576 # Ray
    --cap-add SYS_PTRACE            # weights passed between processes on one GPU; stacks of ranks that hang
    --user "$(id -u):$(id -g)"      # files belong to the caller
    --volume "$workspace:/workspace"
    --workdir /workspace
)
[ -n "${NAME:-}" ] && options+=(--name "$NAME")
[ -n "${CODE:-}" ] && options+=(--volume "$(cd "$CODE" && pwd):/opt/openrlhf_sfpo")
[ -d "${HF_HOME:-}" ] && options+=(--volume "$HF_HOME:$HF_HOME")
[ -d /dev/infiniband ] && options+=(--device /dev/infiniband)
exec docker run "${options[@]}" ${passed_on[@]+"${passed_on[@]}"} ${more[@]+"${more[@]}"} "${IMAGE:-openrlhf-sfpo}" "$@"
