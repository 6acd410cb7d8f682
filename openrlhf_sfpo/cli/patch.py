"""`openrlhf-sfpo patch`: add the --sfpo.* flags to an installed OpenRLHF, or remove them."""

import sys

from openrlhf_sfpo.cli.parser import Parser
from openrlhf_sfpo.config.values import as_path
from openrlhf_sfpo.orchestration.patched.apply import (
    Edit,
    Target,
    find_target,
    finds_this_package,
    known_versions,
    plan,
    state_of,
    write,
)
from openrlhf_sfpo.system.errors import UsageError


def main(argv: list[str] | None = None) -> int:
    """Patch, revert or check; return the exit status: 0, 1 if --check finds it unpatched, 2 for bad input."""
    parser = Parser(
        prog="openrlhf-sfpo patch",
        description="Patch OpenRLHF, so that `python -m openrlhf.cli.train_ppo_ray ... --sfpo.enable` trains with "
        f"SFPO. Commands without --sfpo.* flags do what they did. Versions: {', '.join(known_versions())}.",
    )
    parser.add_argument(
        "directory",
        nargs="?",
        type=as_path,
        metavar="DIR",
        help="a source tree, or the site-packages that OpenRLHF is installed in (default: what Python imports)",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--check", action="store_true", help="only say whether it is patched (exit status 0) or not (1)"
    )
    action.add_argument("--revert", action="store_true", help="undo the patch")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    try:
        target = find_target(args.directory)
        edits = plan(target)
        return _check(target, edits) if args.check else _write(target, edits, args.revert)
    except UsageError as error:
        print(f"openrlhf-sfpo patch: error: {error}", file=sys.stderr)
        return 2


def _check(target: Target, edits: list[Edit]) -> int:
    state = state_of(edits)
    say = {"patched": "is patched", "unpatched": "is not patched; the patch fits", "half": "is patched in part"}[state]
    print(f"OpenRLHF {target.version} in {target.root} {say}")
    if state == "patched":
        _say_if_missing(target)
    return 0 if state == "patched" else 1


def _say_if_missing(target: Target) -> None:
    if finds_this_package(target) is False:
        print(
            "The Python of that directory has no openrlhf_sfpo: until it does, OpenRLHF works there as without the "
            "patch. Install it with `pip install --no-deps DIRECTORY_OF_THIS_REPOSITORY && pip install unidiff==1.0.1`."
        )


def _write(target: Target, edits: list[Edit], revert: bool) -> int:
    changed = write(edits, revert)
    name = f"OpenRLHF {target.version} in {target.root}"
    if not changed:
        print(f"{name} {'is not patched' if revert else 'is already patched'}: nothing to do")
        return 0
    print(f"{name} is {'as it was' if revert else 'patched'}:")
    for path in changed:
        print(f"  changed {path.relative_to(target.root)}")
    if not revert:
        print("python -m openrlhf.cli.train_ppo_ray now takes --sfpo.enable and the other --sfpo.* flags.")
        _say_if_missing(target)
    return 0
