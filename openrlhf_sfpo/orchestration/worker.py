"""What every Ray worker process of a run does first (Ray's worker_process_setup_hook)."""

import warnings

from openrlhf_sfpo.orchestration import flash_attn_stub


def setup() -> None:
    """Make OpenRLHF importable without CUDA. Runs before the worker unpickles anything."""
    flash_attn_stub.install_if_missing()
    warnings.filterwarnings("ignore", message=".*(Apex|Transformer Engine).*not installed.*")
