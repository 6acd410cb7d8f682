"""`openrlhf-sfpo compare`: variants of one run, over learning rates and seeds, with the same prompts and evaluation."""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Container
from pathlib import Path
from typing import Any

from openrlhf_sfpo.cli.flags import flatten, parse_settings, read_yaml
from openrlhf_sfpo.config import effective_update
from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.files import locked
from openrlhf_sfpo.home import have_home
from openrlhf_sfpo.keys import hide, take_keys
from openrlhf_sfpo.orchestration.lanes import Lanes, PlannedRun, still_to_do
from openrlhf_sfpo.report.console import Console, before_and_after
from openrlhf_sfpo.report.reading import read_metrics

_KEYS = {
    "base": "flags of every run, or the path of a YAML file with them",
    "variants": "a list of presets, or a mapping of names to flags",
    "sweep": "flags with lists of values; every variant runs with every combination",
    "seeds": "a list of values of --train.seed",
}


def main(argv: list[str] | None = None) -> int:
    """Compare; return the exit status: 0, 1 if a run failed, 2 for bad input."""
    words = sys.argv[1:] if argv is None else argv
    have_home()
    hide(words)
    parser = _parser()
    args = parser.parse_args(words)
    try:
        if args.lanes < 1:
            raise UsageError("--lanes", f"is {args.lanes}.", "Use 1 or more.")
        out = args.out or Path("runs") / args.config.stem
        runs = plan(args.config, out, args.set)
        if args.dry_run:
            for run in runs:
                print(run.name)
            print(f"{len(runs)} runs in {out}")
            return 0
        _check(runs)
        with locked("--out", out, "comparison"):
            return _compare(runs, out, args.lanes, keep=not args.fresh)
    except UsageError as error:
        print(f"openrlhf-sfpo compare: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    keys = "\n".join(f"  {name:10s} {what}" for name, what in _KEYS.items())
    parser = argparse.ArgumentParser(
        prog="openrlhf-sfpo compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Run a grid of variants, settings and seeds, and report on it. CONFIG.yaml has\n\n{keys}\n\n"
        "A comparison that was stopped goes on where it was when the same command is given again: runs that have\n"
        "finished are not repeated, one that was cut short starts anew.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG.yaml")
    parser.add_argument("--out", type=Path, help="where the runs and the report go (default: runs/NAME_OF_CONFIG)")
    parser.add_argument(
        "--lanes",
        type=int,
        default=1,
        help="runs at the same time; without a Ray cluster they divide this machine's processors (default: 1)",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start engines and actors anew for every run, instead of resetting those of the run before",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a flag for every run, over the file's"
    )
    parser.add_argument("--dry_run", action="store_true", help="list the runs and stop")
    return parser


def plan(config: Path, out: Path, changes: list[str]) -> list[PlannedRun]:
    """The runs that a comparison's file asks for, the seeds outermost: one that is stopped early has all variants.

    Args:
        config: the YAML file.
        out: the comparison's directory.
        changes: NAME=VALUE flags for every run, over the file's.

    Raises:
        UsageError: naming the file and what is wrong in it.
    """
    content = read_yaml("CONFIG.yaml", config)
    unknown = set(content) - set(_KEYS)
    if unknown:
        raise UsageError(
            str(config), f"has {', '.join(map(repr, sorted(unknown)))}.", f"It may have {', '.join(_KEYS)}."
        )
    base = _base(config, content.get("base"))
    overrides = dict(_split(change) for change in changes)
    runs: dict[str, PlannedRun] = {}
    seen: set[str] = set()
    for seed, (variant, flags), swept in itertools.product(
        _seeds(config, content, base), _variants(config, content), _combinations(config, content)
    ):
        settings = {**base, **flags, **swept, **overrides, "train.seed": seed}
        take_keys(settings)
        name = _unused_name(variant, swept, seed, runs)
        directory = (out / "runs" / name).absolute()
        flat, given = parse_settings({**settings, "run.dir": str(directory)}, str(config))
        essence = _essence(variant, vars(flat))
        if essence not in seen:  # GRPO, say, is the same for every K in a sweep
            seen.add(essence)
            runs[name] = PlannedRun(name, directory, flat, frozenset(given), settings)
    return list(runs.values())


def _essence(variant: str, values: dict[str, Any]) -> str:
    """What makes a run different from the others."""
    # Of the logger's defaults one is the time of day.
    left_out = ("run.dir", "sfpo.", "logger.")
    others = {name: value for name, value in values.items() if not name.startswith(left_out)}
    return repr((variant, sorted({**others, **effective_update(values)}.items())))


def _unused_name(variant: str, swept: dict[str, Any], seed: int, used: Container[str]) -> str:
    """A name that says what is swept, as part of a path."""
    parts = [variant, *(f"{name.rpartition('.')[2]}={value}" for name, value in swept.items()), f"seed={seed}"]
    name = "_".join(parts).replace("/", "-")
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([name], numbered) if candidate not in used)


def _seeds(config: Path, content: dict[str, Any], base: dict[str, Any]) -> list[int]:
    seeds = content.get("seeds") or [base.get("train.seed", 42)]
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        raise UsageError(str(config), f"seeds is {seeds!r}.", "Give a list of whole numbers.")
    return seeds


def _combinations(config: Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the swept values."""
    sweep = flatten(content.get("sweep") or {})
    for name, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise UsageError(str(config), f"sweep {name} is {values!r}.", "Give a list of values.")
    return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def _base(config: Path, base: Any) -> dict[str, Any]:
    if isinstance(base, str):
        base = read_yaml(f"{config}: base", config.parent / base)
    if not isinstance(base, dict):
        raise UsageError(str(config), "has no base.", "Give the flags that all runs share, or a YAML file with them.")
    return flatten(base)


def _variants(config: Path, content: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    variants = content.get("variants") or ["sfpo", "grpo"]
    if isinstance(variants, list):
        return [(str(name), {"sfpo.preset": name}) for name in variants]
    if not isinstance(variants, dict) or not all(isinstance(flags, dict) for flags in variants.values()):
        raise UsageError(str(config), f"variants is {variants!r}.", "Give a list of presets, or flags for each name.")
    return [(str(name), flatten(flags)) for name, flags in variants.items()]


def _split(change: str) -> tuple[str, str]:
    name, equals, value = change.partition("=")
    if not equals:
        raise UsageError("--set", f"is {change!r}.", "Write NAME=VALUE, such as actor.adam.lr=1e-5.")
    return name.removeprefix("--"), value


def _check(runs: list[PlannedRun]) -> None:
    """Check the flags of every run; files and models once for the runs that differ in seed alone."""
    from openrlhf_sfpo.orchestration import preflight

    checked: set[str] = set()
    for run in runs:
        essence = repr(sorted((k, str(v)) for k, v in run.settings.items() if k != "train.seed"))
        if essence not in checked:
            checked.add(essence)
            # Whether the run directory is free is asked by `still_to_do`, which knows what a comparison leaves there.
            unused = run.directory.with_name(f".{os.getpid()}")
            preflight.check(argparse.Namespace(**{**vars(run.flat), "run.dir": str(unused)}))


def _compare(runs: list[PlannedRun], out: Path, lanes: int, keep: bool) -> int:
    console = Console()
    todo = still_to_do(runs)
    console.say(f"{len(runs)} runs in {out}, {len(runs) - len(todo)} of them finished")
    began, failed, done = time.monotonic(), [], 0

    def ended(run: PlannedRun, status: int, seconds: float) -> None:
        nonlocal done
        done += 1
        left = (time.monotonic() - began) / done * (len(todo) - done)
        progress = f"{done}/{len(todo)} {run.name}, {seconds:.0f} s; about {_duration(left)} left"
        if status:
            failed.append(run)
            console.say(f"{progress}: failed; see {run.directory / 'logs' / 'console.log'}")
            return
        console.say(progress)
        for sentence in before_and_after(read_metrics(run.directory)):
            console.plain(f"        {sentence}")

    with Lanes(lanes, keep, lambda run: console.phase(run.name), ended) as pool:
        finished = pool.run(todo)
    if not finished:
        console.say("gave up after several failures in a row; the same command goes on from here")
    from openrlhf_sfpo.cli import report

    status = report.main([str(out)])
    return 1 if failed or not finished else status


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
