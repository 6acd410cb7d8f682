"""`openrlhf-sfpo report`: the results of one or more runs as tables, plots and a page."""

import math
import sys

from openrlhf_sfpo.cli.parser import Parser
from openrlhf_sfpo.config.values import as_path
from openrlhf_sfpo.report.comparison import Comparison
from openrlhf_sfpo.report.page import write_report
from openrlhf_sfpo.report.runs import find_runs, load_run
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.files import check_writable


def main(argv: list[str] | None = None) -> int:
    """Report; return the exit status: 0, or 2 for bad input."""
    parser = Parser(
        prog="openrlhf-sfpo report",
        description="Compare runs, also while they are running: accuracy against rollouts, backward passes and time, "
        "what it takes to reach the baseline's best accuracy, and training dynamics. Runs that differ in --sfpo.* are "
        "variants, other flags that differ are settings of which each variant is shown at its best, and --train.seed "
        "tells repetitions apart.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=as_path,
        metavar="RUN_DIR",
        help="run directories, or directories with runs in them, such as a comparison's",
    )
    parser.add_argument(
        "--out", type=as_path, help="where report.html, .json, .md and the plots go (default: the first RUN_DIR)"
    )
    parser.add_argument("--baseline", help="the variant or preset to compare with (default: grpo)")
    parser.add_argument(
        "--dataset", help="the evaluation data set to compare on (default: the unweighted mean over all)"
    )
    parser.add_argument(
        "--smooth",
        type=int,
        default=1,
        metavar="N",
        help="take the mean of N neighboring evaluations for each accuracy (odd; default: 1). The best of a noisy "
        "curve is too high, and so is the target that the baseline's best sets",
    )
    parser.add_argument(
        "--rollout_cost",
        type=float,
        metavar="PASSES",
        help="also compare on the tokens sampled and trained on, where sampling a response costs as much as this many "
        "backward passes over it: seconds, without the noise of a machine",
    )
    parser.add_argument(
        "--at",
        type=float,
        nargs="+",
        default=[],
        metavar="PERCENT",
        help="also compare what it takes to reach these accuracies, each variant at the setting that is soonest there",
    )
    parser.add_argument("--title", help="of the page (default: made from the directories' names)")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    try:
        if args.smooth < 1 or args.smooth % 2 == 0:
            raise UsageError("--smooth", f"is {args.smooth}.", "Use an odd number, such as 3.")
        if args.rollout_cost is not None and not 0 <= args.rollout_cost < math.inf:
            raise UsageError("--rollout_cost", f"is {args.rollout_cost:g}.", "Use 0 or more.")
        if not all(0 < accuracy <= 100 for accuracy in args.at):
            raise UsageError("--at", f"is {' '.join(f'{value:g}' for value in args.at)}.", "Use accuracies in percent.")
        runs = [load_run(directory) for directory in find_runs(args.paths)]
        out = args.out or args.paths[0]
        check_writable("--out", out)
        try:
            accuracies = [accuracy / 100 for accuracy in args.at]
            comparison = Comparison(runs, args.baseline, args.dataset, args.smooth, args.rollout_cost, accuracies)
        except ValueError as error:
            raise UsageError("--baseline", f"{error}.", "Name one of them.") from None
        title = args.title or "SFPO report: " + ", ".join(path.absolute().name for path in args.paths)
        tables, files = write_report(comparison, out, title)
    except UsageError as error:
        print(f"openrlhf-sfpo report: error: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(table.text() for table in tables))
    print(f"\n{files[0]}")
    return 0
