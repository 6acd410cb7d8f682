"""Maps setting names in errors of the Megatron actor and checkpoints to flag names."""

from collections.abc import Iterator
from contextlib import contextmanager

from openrlhf_sfpo.config.flag_table import setting_flags
from openrlhf_sfpo.config.openrlhf_flags import MODEL_FLAG
from openrlhf_sfpo.system.errors import UsageError


@contextmanager
def flags_named(**others: str) -> Iterator[None]:
    """Make errors of code that knows no flags name the flag instead of the setting; a context manager and a decorator.

    Args:
        others: flags of settings that are not the actor's.
    """
    try:
        yield
    except UsageError as error:
        renamed = error.renamed(_names() | others)
        if str(renamed) == str(error):
            raise
        raise renamed from error


def _names() -> dict[str, str]:
    names = {setting: f"--{flag}" for setting, flag in setting_flags().items()}
    return names | {
        "model": MODEL_FLAG,
        "max_len": "--data.max_len",
        "backend": "--actor.backend",
        "world_size": "--actor.num_nodes, --actor.num_gpus_per_node",
    }
