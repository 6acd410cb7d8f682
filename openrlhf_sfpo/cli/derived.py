"""Settings of one run used for another: paths inside the first run's directory become paths inside the other's."""

import os
from pathlib import Path
from typing import Any

from openrlhf_sfpo.config.settings_file import Settings
from openrlhf_sfpo.config.values import expanded
from openrlhf_sfpo.report.reading import CONFIG, STATUS
from openrlhf_sfpo.runs.paths import INSIDE, OUTPUTS


def of_this_run(file: Path, settings: Settings, words: dict[str, Any]) -> Settings:
    """The settings of a --config file, adapted to the run that is being started.

    Args:
        file: a run's config.yaml, or one written by hand.
        settings: its content.
        words: the values of the command line.
    """
    before = settings.get("run.dir")
    if not isinstance(before, str) or not before.strip():
        return settings
    own = file.parent if file.name == CONFIG and (file.parent / STATUS).exists() else None
    after = words.get("run.dir") or str(own or before)
    return follow(settings | {"run.dir": after}, before, after)


def follow(settings: Settings, before: str, after: str) -> Settings:
    """Move output paths from one run directory into another, so that the first run is not touched.

    Args:
        settings: by dotted name.
        before: the run directory in the settings.
        after: the run directory of the run being started.
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
            dropped.append(name)  # the default is used instead
        elif place == os.curdir or not place.startswith(os.pardir):
            moved[name] = str(Path(after) / place)
    return (settings | moved).without(*dropped)


def _absolute(path: str) -> str:
    return os.path.realpath(expanded("--run.dir", path))
