"""Staleness: the number of updates of the policy since a response was begun."""

from typing import Any

import torch

STAMP = "policy_updates"  # in a sample's info


def stamp(responses: list[dict[str, Any]], updates: int) -> None:
    """Stamp an engine's responses with the version (number of updates) of the weights that they were begun with."""
    for response in responses:
        response["extra_logs"] = {**(response.get("extra_logs") or {}), STAMP: float(updates)}


def replace_stamps(info: dict[str, Any], updates: int) -> None:
    """Set `staleness`, in updates, in a batch's `info` if its responses are stamped.

    Args:
        info: numbers [B] by name, from an OpenRLHF `Experience`.
        updates: version of the weights about to be trained.
    """
    stamps = info.pop(STAMP, None)
    if stamps is not None:
        info["staleness"] = updates - torch.as_tensor(stamps)
