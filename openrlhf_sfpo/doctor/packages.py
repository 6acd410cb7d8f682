"""Compares the installed packages with the versions that setup.py requires."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from openrlhf_sfpo.doctor.finding import Finding

_OWN_PACKAGE = "openrlhf_sfpo"


def packages(extra: str) -> Iterator[Finding]:
    """Check the versions that setup.py requires, for the CPU or the GPU set."""
    try:
        wanted_of_us = requires(_OWN_PACKAGE) or []
    except PackageNotFoundError:
        yield Finding(
            _OWN_PACKAGE, "error", "not installed", "Run requirements/install.sh, or pip install this package."
        )
        return
    for text in wanted_of_us:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        installer = "docker/install.sh" if extra == "gpu" else "requirements/install.sh"
        fix = f"pip install '{wanted.name}{wanted.specifier}' ({installer} installs the whole set)"
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield Finding(wanted.name, "error", f"not installed, {wanted.specifier or 'any version'} is needed", fix)
            continue
        if wanted.specifier.contains(found, prereleases=True):
            yield Finding(wanted.name, "ok", found)
        else:
            yield Finding(wanted.name, "error", f"{found}, {wanted.specifier} is needed", fix)
