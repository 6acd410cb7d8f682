# openrlhf_sfpo on H100s: CUDA 13.0 (what PyPI's torch 2.13.0 is built for), Python 3.12, the pinned packages of
# requirements/, flash-attn and Transformer Engine compiled against that torch. The steps are docker/install.sh's.
#
#   docker/build.sh                                # or: docker build -t openrlhf-sfpo .
#   docker/run.sh openrlhf-sfpo doctor             # or: docker run --rm --gpus all --ipc=host openrlhf-sfpo doctor
#
# The host needs the NVIDIA container toolkit and a driver of the 580 series or newer. Give containers --ipc=host (or
# --shm-size=16g): NCCL and Ray use /dev/shm, of which Docker gives 64 MB by itself.
#
# The devel image also serves at run time: FlashInfer, Triton and DeepSpeed compile kernels when they are first used.
FROM nvidia/cuda:13.0.3-devel-ubuntu24.04

# What apt has for this release of Ubuntu; libibverbs for NCCL over InfiniBand, tini to pass signals on.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        build-essential ca-certificates git ibverbs-providers libibverbs1 libnuma1 libseccomp2 procps \
        python3.12 python3.12-dev python3.12-venv tini \
    && rm -rf /var/lib/apt/lists/*

# GPUs to compile flash-attn for (90: H100, H200), and how many compilers at a time (empty: what the machine allows).
ARG CUDA_ARCHS=90
ARG MAX_JOBS=
# The base image puts the toolkit's libraries before those that torch brings along; only the driver's belong there.
ENV CUDA_HOME=/usr/local/cuda \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64 \
    PATH=/opt/venv/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    RAY_AUTH_MODE=token \
    TORCH_CUDA_ARCH_LIST=9.0 \
    VENV=/opt/venv

# Layers that change with the pins only.
WORKDIR /opt/openrlhf_sfpo
COPY docker/install.sh docker/
COPY requirements/build.txt requirements/gpu.in requirements/gpu-py312.txt requirements/
RUN docker/install.sh packages
COPY requirements/gpu-build.txt requirements/
RUN CUDA_ARCHS="$CUDA_ARCHS" MAX_JOBS="$MAX_JOBS" docker/install.sh built

# Ubuntu's image has a user 1000 already. Homes of other numbers (docker/run.sh uses the caller's) are made at start.
RUN usermod --login sfpo --home /home/sfpo --move-home ubuntu \
    && groupmod --new-name sfpo ubuntu \
    && mkdir /workspace \
    && chown sfpo:sfpo /workspace

# The small layer that changes with the code.
COPY . .
RUN docker/install.sh project

USER 1000:1000
WORKDIR /workspace
# Cheap, and without computing on GPUs: a run may be measuring their memory (docker/healthcheck.sh).
HEALTHCHECK --interval=60s --timeout=90s --start-period=60s --retries=1 \
    CMD ["/opt/openrlhf_sfpo/docker/healthcheck.sh"]
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/openrlhf_sfpo/docker/entrypoint.sh"]
CMD ["--help"]
