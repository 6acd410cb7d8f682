"""`openrlhf-sfpo doctor`: problems of this machine, or of a command line on it."""

import json
import sys
from dataclasses import asdict

from openrlhf_sfpo.cli.dry_run import SPELLINGS
from openrlhf_sfpo.doctor.examination import check_command_line, examine, examine_quickly
from openrlhf_sfpo.doctor.finding import Finding
from openrlhf_sfpo.doctor.replaced import replaced_names
from openrlhf_sfpo.system.errors import UsageError

_HELP = """usage: openrlhf-sfpo doctor [--json] [--quick | --replaced | FLAGS OF openrlhf-sfpo train]

Checks versions, GPUs, collectives, shared memory and stack dumps; with flags of `openrlhf-sfpo train` also those flags,
memory, Ray's resources and disk space for them. Changes nothing. --quick leaves out what computes or takes GPU memory,
so that it may be run during training. --replaced lists every name of another library that this package replaces, with
the reason, and every undocumented one that it relies on, and checks that the installed versions have them. --json
prints a list of objects with the keys check, state (ok, warning, error), found and fix. The exit status is 0, 1 if
there are errors, 2 for bad input."""


def main(argv: list[str] | None = None) -> int:
    """Examine; return the exit status: 0, 1 if something will not work, 2 for bad input."""
    words = sys.argv[1:] if argv is None else argv
    if "-h" in words or "--help" in words:
        print(_HELP)
        return 0
    as_json, flags = "--json" in words, [word for word in words if word not in ("--json", *SPELLINGS)]
    try:
        findings = _findings(flags)
    except UsageError as error:
        print(f"openrlhf-sfpo doctor: error: {error}", file=sys.stderr)
        return 2
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print(_text(findings))
    return 1 if any(finding.state == "error" for finding in findings) else 0


def _findings(flags: list[str]) -> list[Finding]:
    if "--quick" in flags:
        if len(flags) > 1:
            raise UsageError("--quick", "is given together with flags of a run.", "Give one or the other.")
        return list(examine_quickly())
    if "--replaced" in flags:
        if len(flags) > 1:
            raise UsageError("--replaced", "is given together with other flags.", "Give it alone, or with --json.")
        return list(replaced_names())
    if not flags:
        return list(examine(None))
    from openrlhf_sfpo.cli.flags import parse
    from openrlhf_sfpo.config.namespaces import nested

    flat, given = parse(flags)
    vars(flat)["run.dir"] = vars(flat)["run.dir"] or "runs/new"
    checked = check_command_line(flat, given)
    # If the flags are wrong, the checks that depend on them are skipped.
    return [checked, *examine(nested(flat) if checked.state == "ok" else None)]


def _text(findings: list[Finding]) -> str:
    from openrlhf_sfpo.report.tables import Table

    rows = [[one.state if one.state == "ok" else one.state.upper(), one.check, one.found] for one in findings]
    table = Table("openrlhf-sfpo doctor", ["", "what", "found"], rows).text()
    fixes = [f"{one.state.upper()} {one.check}: {one.fix}" for one in findings if one.fix]
    errors = sum(one.state == "error" for one in findings)
    verdict = f"{errors} error(s)" if errors else "nothing that would keep a run from working"
    return "\n".join([table, "", *fixes, *([""] if fixes else []), verdict])
