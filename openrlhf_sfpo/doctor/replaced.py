"""What this package replaces in other libraries, and what it relies on, against the installed versions."""

import importlib.util
from collections.abc import Iterator

from openrlhf_sfpo.doctor.finding import Finding
from openrlhf_sfpo.system import flash_attn_stub
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.home import prepare_command
from openrlhf_sfpo.system.replaced_names import INTERCEPTED, ON_OBJECTS, RELIED_ON, REPLACEMENTS
from openrlhf_sfpo.system.replacements import CHECKED_VERSIONS, LibraryName, check


def replaced_names() -> Iterator[Finding]:
    """One finding for each name; a warning where its library is not installed. Imports the libraries."""
    prepare_command()
    flash_attn_stub.install_if_missing()
    for name in REPLACEMENTS.values():
        yield _finding(name, f"replaced by {name.by} in {name.scope}: {name.reason}")
    for one in ON_OBJECTS.values():
        yield _finding(one, f"replaced on single objects by {one.by} in {one.scope}: {one.reason}")
    for kind in INTERCEPTED:
        yield _finding(kind, f"intercepted by {kind.by} in {kind.scope}: {kind.reason}")
    for reliance in RELIED_ON:
        yield _finding(reliance, f"relied on by {reliance.used_by}")


def _finding(entry: LibraryName, what: str) -> Finding:
    if importlib.util.find_spec(entry.package) is None:
        return Finding(entry.key, "warning", f"{what} ({CHECKED_VERSIONS[entry.package][0]} is not installed)")
    try:
        check([entry])
    except UsageError as error:
        return Finding(entry.key, "error", f"{what} ({error.problem})", error.fix)
    return Finding(entry.key, "ok", what)
