"""Settings of one run used for another: what the first wrote into its run directory, the other writes into its own."""

import os
from pathlib import Path
from typing import Any

from openrlhf_sfpo.config.settings_file import Settings
from openrlhf_sfpo.config.values import expanded
from openrlhf_sfpo.report.reading import CONFIG, STATUS
from openrlhf_sfpo.runs.paths import INSIDE, OUTPUTS


def of_this_run(file: Path, settings: Settings, words: dict[str, Any]) -> Settings:
    """The settings of a --config file for the run that is asked for.

    Args:
        file: a run's config.yaml, or one that somebody wrote.
        settings: what is in it.
        words: the values of the command line.
    """
    before = settings.get("run.dir")
    if not isinstance(before, str) or not before.strip():
        return settings
    own = file.parent if file.name == CONFIG and (file.parent / STATUS).exists() else None
    after = words.get("run.dir") or str(own or before)
    return follow(settings | {"run.dir": after}, before, after)


def follow(settings: Settings, before: str, after: str) -> Settings:
    """Move what a run writes inside one run directory into another one, so that the first run stays as it is.

    Args:
        settings: by dotted name.
        before: the run directory that they name.
        after: that of the run that is asked for.
    """
    old = _absolute(before)
    moved: dict[str, Any] = {}
    dropped = []
    for name in OUTPUTS:
        value = settings.get(name)
        if not isinstance(value, str) or not value.strip():
            continue
        place = os.path.relpath(_absolute(value), old)
        if place == INSIDE.get(name):
            dropped.append(name)  # the default
        elif place == os.curdir or not place.startswith(os.pardir):
            moved[name] = str(Path(after) / place)
    return (settings | moved).without(*dropped)


def _absolute(path: str) -> str:
    return os.path.realpath(expanded("--run.dir", path))
