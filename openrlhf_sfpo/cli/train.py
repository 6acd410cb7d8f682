"""`openrlhf-sfpo train`, and `python -m openrlhf_sfpo.cli.train` for `ray job submit`."""

import sys
from datetime import datetime

from openrlhf_sfpo.cli.flags import parse
from openrlhf_sfpo.errors import UsageError


def main(argv: list[str] | None = None) -> int:
    """Train; return the exit status: 0, 1 if the run failed, 2 for bad input."""
    try:
        flat, given = parse(sys.argv[1:] if argv is None else argv)
        if getattr(flat, "run.dir") is None:
            vars(flat)["run.dir"] = f"runs/{datetime.now():%Y%m%d-%H%M%S}"
        from openrlhf_sfpo.orchestration import launcher, preflight

        preflight.check(flat)
        return launcher.run(flat, preflight.prepare(flat, given))
    except UsageError as error:
        print(f"openrlhf-sfpo train: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
