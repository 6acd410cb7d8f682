"""Error messages for refused settings of config.json, and comparisons of their values."""

import json
import math
from typing import Any

from openrlhf_sfpo.checkpoints.hf_config import MODEL_SETTING
from openrlhf_sfpo.system.errors import UsageError


def refused(where: str, name: str, value: object, why: str, fix: str = "Use a model without it.") -> UsageError:
    """The error that names a setting.

    Args:
        where: the file.
        name: the setting.
        value: its value, shown as in the file.
        why: a clause about the value, such as "which vLLM does not support".
        fix: the fix to suggest.
    """
    text = json.dumps(value, default=repr)
    if len(text) > 100:
        text = text[:100] + "..."
    return UsageError(MODEL_SETTING, f"{where} sets {name} to {text}, {why}.", fix)


def is_one_of(value: object, neutral: tuple[Any, ...]) -> bool:
    """Whether a value is one of these. True does not equal 1, but 1.0 does."""
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in neutral)


def is_number(value: object) -> bool:
    """Whether a value is a finite number, and not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
