#!/usr/bin/env bash
# Builds the image. Arguments go to `docker build`: docker/build.sh --build-arg MAX_JOBS=8
#
# Environment: IMAGE (default: openrlhf-sfpo), CUDA_ARCHS (90: H100 and H200), MAX_JOBS (what the machine allows).
# flash-attn takes most of the time: some minutes on 64 cores, hours on 4. No GPU is needed.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
exec docker build --tag "${IMAGE:-openrlhf-sfpo}" \
    --build-arg CUDA_ARCHS="${CUDA_ARCHS:-90}" --build-arg MAX_JOBS="${MAX_JOBS:-}" "$@" "$root"
