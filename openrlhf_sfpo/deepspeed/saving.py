"""Makes transformers' `save_pretrained` succeed, and its files readable for others."""

from pathlib import Path
from typing import TYPE_CHECKING

from openrlhf_sfpo.system.files import set_usual_mode

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def make_savable(model: "PreTrainedModel") -> None:
    """Fix a generation config that transformers loads but refuses to save.

    Many published models set temperature or top_p without do_sample. If fixing that is not enough, only the special
    tokens are kept.

    Args:
        model: a transformers model; changed in place.
    """
    config = getattr(model, "generation_config", None)
    if config is None or _is_valid(config):
        return
    config.do_sample = True
    if not _is_valid(config):
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        model.generation_config = type(config)(**{name: getattr(config, name) for name in names})


def set_modes(directory: Path) -> None:
    """Give the weights in a saved directory the default mode of new files: safetensors makes them readable for the
    owner only."""
    for file in directory.glob("*.safetensors"):
        set_usual_mode(file)


def _is_valid(config: "PretrainedConfig") -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True
