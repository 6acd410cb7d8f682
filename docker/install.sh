#!/usr/bin/env bash
# The image's steps, as a script that also runs on a bare machine with a CUDA toolkit. The Dockerfile runs one per layer:
#
#   docker/install.sh packages    a virtual environment, torch, and all prebuilt packages (requirements/gpu-py312.txt)
#   docker/install.sh built       what is compiled against that torch (requirements/gpu-build.txt); needs nvcc
#   docker/install.sh project     this package, without dependencies, and a check that the installed packages fit together
#
# Environment:
#   VENV         the virtual environment (default: .venv-gpu in the repository)
#   PYTHON       a Python 3.12 (default: python3.12)
#   CUDA_HOME    the toolkit (default: /usr/local/cuda); must be of the CUDA version that torch was built for
#   CUDA_ARCHS   GPUs to compile flash-attn for (default: 90, which is H100 and H200)
#   MAX_JOBS     parallel compilers (default: as many as the packages think that cores and memory allow)
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VENV:-$root/.venv-gpu}"
pip_version=26.3

fail() { echo "docker/install.sh: $*" >&2; exit 1; }
say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }
in_venv() { "$venv/bin/python" "$@"; }
pip_install() { in_venv -m pip --disable-pip-version-check install --no-cache-dir "$@"; }

# The one line of gpu.in that names a package: "torch==2.13.0".
asked_for() { grep -E "^$1==" "$root/requirements/gpu.in" || fail "requirements/gpu.in pins no $1."; }

packages() {
    local python="${PYTHON:-python3.12}"
    [ "$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = 3.12 ] ||
        fail "$python is not Python 3.12."
    say "virtual environment in $venv"
    "$python" -m venv "$venv"
    pip_install --quiet "pip==$pip_version"
    say "$(asked_for torch)"
    pip_install --quiet --no-deps "$(asked_for torch)"
    say "$(grep -c == "$root/requirements/gpu-py312.txt") packages of gpu-py312.txt"
    pip_install --quiet --no-deps --build-constraint "$root/requirements/build.txt" \
        -r "$root/requirements/gpu-py312.txt"
    say "packages are there"
}

built() {
    export CUDA_HOME="${CUDA_HOME:-/usr/local/cuda}"
    [ -x "$CUDA_HOME/bin/nvcc" ] || fail "there is no $CUDA_HOME/bin/nvcc; set CUDA_HOME to a CUDA toolkit."
    local torch_cuda toolkit site
    torch_cuda="$(in_venv -c 'import torch; print(torch.version.cuda)')"
    toolkit="$("$CUDA_HOME/bin/nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')"
    [ "$torch_cuda" = "$toolkit" ] || fail "torch was built for CUDA $torch_cuda, and $CUDA_HOME is $toolkit."
    # Headers of the cuDNN and NCCL that torch runs with, which the toolkit lacks, and NVTX, which it may lack; the
    # toolkit's own are found before these.
    site="$(in_venv -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    export CPLUS_INCLUDE_PATH="$site/nvidia/cudnn/include:$site/nvidia/nccl/include:$site/nvidia/cu13/include"
    # Compile them here, even if a release page has a wheel of the right name.
    export NVTE_FRAMEWORK=pytorch NVTE_PYTORCH_FORCE_BUILD=TRUE FLASH_ATTENTION_FORCE_BUILD=TRUE
    export FLASH_ATTN_CUDA_ARCHS="${CUDA_ARCHS:-90}"
    export PATH="$venv/bin:$PATH"  # ninja
    [ -n "${MAX_JOBS:-}" ] || unset MAX_JOBS
    local list="$root/requirements/gpu-build.txt"
    say "compiling $(grep -c == "$list") packages with CUDA $toolkit, for sm_$FLASH_ATTN_CUDA_ARCHS"
    pip_install --no-deps --no-build-isolation -r "$list"
    say "compiled"
}

project() {
    pip_install --quiet --no-deps --no-build-isolation -e "$root"
    in_venv "$root/docker/check_pins.py" --installed
    say "$("$venv/bin/openrlhf-sfpo" --version) is there"
}

[ $# -gt 0 ] || fail "name steps: packages, built, project."
for step in "$@"; do
    case "$step" in
        packages | built | project) "$step" ;;
        *) fail "there is no step '$step'; there are packages, built, project." ;;
    esac
done
