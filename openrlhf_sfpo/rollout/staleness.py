"""How many updates the policy has had since a response was begun."""

from typing import Any

import torch

STAMP = "policy_updates"  # in a sample's info


def stamp(responses: list[dict[str, Any]], updates: int) -> None:
    """Note in an engine's responses how many updates had made the weights that they were begun with."""
    for response in responses:
        response["extra_logs"] = {**(response.get("extra_logs") or {}), STAMP: float(updates)}


def replace_stamps(info: dict[str, Any], updates: int) -> None:
    """Have a batch's `info` ([B] numbers by name) say `staleness`, in updates, where its responses are stamped.

    Args:
        info: of an OpenRLHF `Experience`.
        updates: that made the weights which are about to be trained.
    """
    stamps = info.pop(STAMP, None)
    if stamps is not None:
        info["staleness"] = updates - torch.as_tensor(stamps)
