"""`openrlhf-sfpo compare`: variants of one run, over learning rates and seeds, with the same prompts and evaluation."""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Any

from openrlhf_sfpo.cli import derived, dry_run
from openrlhf_sfpo.cli.flags import Flags, parse_settings
from openrlhf_sfpo.cli.parser import Parser
from openrlhf_sfpo.config.effective_update import effective_update
from openrlhf_sfpo.config.settings_file import Section, Settings, flatten, read_yaml
from openrlhf_sfpo.config.values import as_path
from openrlhf_sfpo.report.console import Console, before_and_after
from openrlhf_sfpo.report.reading import read_metrics
from openrlhf_sfpo.runs.parallel_runs import ParallelRuns, PlannedRun, still_to_do
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.files import locked
from openrlhf_sfpo.system.home import prepare_command
from openrlhf_sfpo.system.keys import hide, take_keys

_KEYS = {
    "base": "flags of every run, or the path of a YAML file with them",
    "variants": "a list of presets, or a mapping of names to flags",
    "sweep": "flags with lists of values; every variant runs with every combination",
    "seeds": "a list of values of --train.seed",
}


def main(argv: list[str] | None = None) -> int:
    """Compare; return the exit status: 0, 1 if a run failed, 2 for bad input."""
    words = sys.argv[1:] if argv is None else argv
    prepare_command()
    hide(words)
    parser = _parser()
    args = parser.parse_args(words)
    try:
        if args.parallel < 1:
            raise UsageError("--parallel", f"is {args.parallel}.", "Use 1 or more.")
        out = args.out or Path("runs") / args.config.stem
        runs = plan(args.config, out, args.set)
        if args.dry_run:
            return _dry_run(runs, out)
        _check(runs)
        with locked("--out", out, "comparison"):
            return _compare(runs, out, args.parallel, keep=not args.fresh)
    except UsageError as error:
        print(f"openrlhf-sfpo compare: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    keys = "\n".join(f"  {name:10s} {what}" for name, what in _KEYS.items())
    parser = Parser(
        prog="openrlhf-sfpo compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Run a grid of variants, settings and seeds, and report on it. CONFIG.yaml has\n\n{keys}\n\n"
        "A comparison that was stopped continues when the same command is given again: runs that have\n"
        "finished are not repeated; an interrupted run starts over.",
    )
    parser.add_argument("config", type=as_path, metavar="CONFIG.yaml")
    parser.add_argument("--out", type=as_path, help="where the runs and the report go (default: runs/NAME_OF_CONFIG)")
    parser.add_argument(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="runs at the same time; without a Ray cluster they divide this machine's processors (default: 1)",
    )
    parser.add_argument(
        "--lanes", dest="parallel", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )  # its name before 0.2
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start new engines and actors for every run instead of resetting the previous run's",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a flag for every run, over the file's"
    )
    parser.add_argument(
        *dry_run.SPELLINGS, dest="dry_run", action="store_true", help="check the flags, list the runs and stop"
    )
    return parser


def plan(config: Path, out: Path, changes: list[str]) -> list[PlannedRun]:
    """The runs that a comparison's file describes. Seeds vary slowest: a comparison stopped early covers all variants.

    Args:
        config: the YAML file.
        out: the comparison's directory.
        changes: NAME=VALUE flags for every run; they override the file's.

    Raises:
        UsageError: naming the file and what is wrong in it.
    """
    content = read_yaml("CONFIG.yaml", config)
    unknown = set(content) - set(_KEYS)
    if unknown:
        raise UsageError(
            str(config), f"has {', '.join(map(repr, sorted(unknown)))}.", f"It may have {', '.join(_KEYS)}."
        )
    base, overrides = _base(config, content.get("base")), _overrides(changes)
    variants, combinations = _variants(config, content), _combinations(config, content)
    for settings in (overrides, *(flags for _, flags in variants), *combinations):
        _refuse_reserved(config, settings)
    flags_of = Flags()
    runs: dict[str, PlannedRun] = {}
    seen: set[str] = set()
    for seed, (variant, flags), swept in itertools.product(_seeds(config, content, base), variants, combinations):
        settings = base | flags | swept | overrides | {"train.seed": seed}
        take_keys(settings)
        name = _unused_name(variant, flags_of.read_settings(swept, str(config)), seed, runs)
        directory = (out / "runs" / name).absolute()
        if settings.get("run.dir"):
            settings = derived.follow(settings, settings["run.dir"], str(directory))
        flat, given = parse_settings(settings | {"run.dir": str(directory)}, str(config))
        essence = _essence(variant, vars(flat))
        if essence not in seen:  # for example, GRPO is the same for every K in a sweep
            seen.add(essence)
            written = {one: vars(flat)[one] for one in sorted(given - {"run.dir"})}
            runs[name] = PlannedRun(name, directory, flat, frozenset(given), written)
    return list(runs.values())


def _refuse_reserved(config: Path, settings: Settings) -> None:
    """Refuse the run directory and the seed as settings: the comparison chooses them."""
    for name, fix in (("run.dir", "Use --out."), ("train.seed", "Use seeds.")):
        if name in settings:
            place = settings.places.get(name, str(config))
            raise UsageError(place, f"sets {name}, which a comparison sets for each run.", fix)


def _essence(variant: str, values: dict[str, Any]) -> str:
    """A string that is equal for runs that would do the same thing."""
    # One of the logger's defaults is the time of day.
    left_out = ("run.dir", "sfpo.", "logger.")
    others = {name: value for name, value in values.items() if not name.startswith(left_out)}
    return repr((variant, sorted({**others, **effective_update(values)}.items())))


def _unused_name(variant: str, swept: dict[str, Any], seed: int, used: Container[str]) -> str:
    """An unused directory name that contains the swept values."""
    parts = [variant, *(f"{name.rpartition('.')[2]}={value}" for name, value in swept.items()), f"seed={seed}"]
    name = "_".join(parts).replace("/", "-")
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([name], numbered) if candidate not in used)


def _seeds(config: Path, content: Section, base: Settings) -> list[int]:
    seeds = content.get("seeds") or [base.get("train.seed") or "42"]
    numbers = [str(seed) for seed in seeds] if isinstance(seeds, list) else []
    if not numbers or not all(number.isdecimal() for number in numbers):
        raise UsageError(str(config), f"seeds is {_written(seeds)}.", "Give a list of whole numbers.")
    return [int(number) for number in numbers]


def _combinations(config: Path, content: Section) -> list[Settings]:
    """Every combination of the swept values."""
    sweep = content.get("sweep")
    if sweep is not None and not isinstance(sweep, Section):
        raise UsageError(str(config), f"sweep is {_written(sweep)}.", "Give flags with lists of values.")
    flags = flatten(sweep or Section(str(config)), "CONFIG.yaml")
    for name, values in flags.items():
        if not isinstance(values, list) or not values:
            raise UsageError(str(config), f"sweep {name} is {_written(values)}.", "Give a list of values.")
    return [
        Settings(dict(zip(flags, values, strict=True)), flags.places) for values in itertools.product(*flags.values())
    ]


def _base(config: Path, base: object) -> Settings:
    if isinstance(base, str):
        base = read_yaml(f"{config}: base", config.parent / Path(base).expanduser())
    if not isinstance(base, Section):
        raise UsageError(str(config), "has no base.", "Give the flags that all runs share, or a YAML file with them.")
    return flatten(base, "CONFIG.yaml")


def _variants(config: Path, content: Section) -> list[tuple[str, Settings]]:
    variants = content.get("variants") or ["sfpo", "grpo"]
    place = f"{config}, line {content.lines['variants']}" if "variants" in content else str(config)
    if isinstance(variants, list) and all(isinstance(name, str) for name in variants):
        return [(name, Settings({"sfpo.preset": name}, {"sfpo.preset": place})) for name in variants]
    if not isinstance(variants, Section) or not all(isinstance(flags, Section) for flags in variants.values()):
        raise UsageError(
            str(config), f"variants is {_written(variants)}.", "Give a list of presets, or flags for each name."
        )
    return [(name, flatten(flags, "CONFIG.yaml")) for name, flags in variants.items()]


def _written(value: object) -> str:
    """A value as it was written in the file."""
    if isinstance(value, str | int | float):
        for kind in (int, float):
            with suppress(ValueError):
                return str(kind(value))
    return "empty" if value is None else repr(value)


def _overrides(changes: list[str]) -> Settings:
    found = Settings()
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise UsageError("--set", f"is {change!r}.", "Write NAME=VALUE, such as actor.adam.lr=1e-5.")
        name = name.strip().removeprefix("--")
        found[name], found.places[name] = value, f"--set {change}"
    return found


def _dry_run(runs: list[PlannedRun], out: Path) -> int:
    left = _check(runs, still_to_do=True)
    for run in runs:
        print(run.name)
    print(f"{len(runs)} runs in {out}")
    if left:
        print("\n".join(["Still to do:", *(f"  {error}" for error in left)]))
    return 0


def _check(runs: list[PlannedRun], still_to_do: bool = False) -> list[UsageError]:
    """Check the flags of every run; files and models once for runs that differ only in their seed.

    Args:
        runs: all of them.
        still_to_do: return what must exist before they run, instead of raising for the first such thing.

    Raises:
        UsageError: for the first flag that is wrong.
    """
    from openrlhf_sfpo.runs import paths as places
    from openrlhf_sfpo.runs import preflight

    for name in places.OUTPUTS:
        chosen = [os.path.realpath(vars(run.flat)[name]) for run in runs if name in run.given and vars(run.flat)[name]]
        if len(set(chosen)) < len(chosen):
            raise UsageError(f"--{name}", f"is {chosen[0]} for several runs.", "Leave it out: each has its own.")
    checked: set[str] = set()
    found: dict[str, UsageError] = {}
    for run in runs:
        essence = repr(sorted((k, str(v)) for k, v in run.settings.items() if k != "train.seed"))
        if essence not in checked:
            checked.add(essence)
            # `still_to_do` checks the run directory: it knows what a comparison leaves there.
            unused = run.directory.with_name(f".{os.getpid()}")
            flat = argparse.Namespace(**{**vars(run.flat), "run.dir": str(unused)})
            if still_to_do:
                found |= {str(error): error for error in preflight.still_to_do(flat, run.given)}
            else:
                preflight.check(flat, run.given)
    return list(found.values())


def _compare(runs: list[PlannedRun], out: Path, parallel: int, keep: bool) -> int:
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

    with ParallelRuns(parallel, keep, lambda run: console.phase(run.name), ended) as pool:
        finished = pool.run(todo)
    if not finished:
        console.say("gave up after several failures in a row; the same command continues from here")
    from openrlhf_sfpo.cli import report

    status = report.main([str(out)])
    return 1 if failed or not finished else status


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
