"""How often a grader refuses right answers and accepts wrong ones, by kind of rewriting.

    python benchmarks/grading.py --data math.jsonl gsm8k.jsonl --answers 360 --seed 1 --out results
    python benchmarks/grading.py                        # from benchmarks/grading_answers.jsonl

Reference answers are chosen from the data, one of each kind in turn (integers, fractions, intervals, matrices, ...),
and rewritten in many ways by `rewritings`. Each rewriting is graded by the `math` reward's grader and by math-verify,
called as its README says. Writes grading.md (both rates by kind) and grading.json (also every misjudged rewriting).
"""

import argparse
import contextlib
import datetime
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from answer_kinds import choose, kind_of
from machine import cpu_name, write_result
from rewritings import Rewriting, rewritings

from openrlhf_sfpo.tasks.math_grader import grade

HERE = Path(__file__).parent
ACCEPTABLE, WRONG = 18, 7  # rewritings of one answer
KEYS = ("answer", "label", "final_answer", "target")


def load(paths: list[Path]) -> list[str]:
    """The reference answers in JSONL files."""
    answers: list[str] = []
    for path in paths:
        for line in path.read_text(encoding="utf-8").split("\n"):
            if not line.strip():
                continue
            row = json.loads(line)
            found = next((row[key] for key in KEYS if row.get(key) is not None), None)
            answers += [str(found).strip()] if found is not None else []
    return answers


def generate(answers: list[str], count: int, seed: int, held_out_from: Sequence[int] = ()) -> list[Rewriting]:
    """Rewritings of some of the answers: for each, at most ACCEPTABLE acceptable ones and WRONG wrong ones.

    Args:
        answers: all reference answers.
        count: how many of them to choose, at most.
        seed: of all random choices.
        held_out_from: seeds whose chosen answers are left out.
    """
    generator = random.Random(seed)
    seen = {answer for other in held_out_from for answer in choose(answers, count, other)}
    chosen = choose([answer for answer in answers if answer not in seen], count, seed)
    made: list[Rewriting] = []
    for label in chosen:
        others = [one for one in chosen if one != label and kind_of(one) == kind_of(label)]
        neighbors = generator.sample(others, min(2, len(others)))
        cases = rewritings(label, neighbors, generator)
        for acceptable, most in ((True, ACCEPTABLE), (False, WRONG)):
            some = [case for case in cases if case.acceptable is acceptable]
            made += generator.sample(some, min(most, len(some)))
    return made


def ours(response: str, label: str) -> bool:
    """The `math` reward."""
    return grade(response, label).correct


def math_verify(response: str, label: str) -> bool:
    """math-verify, called as its README says: the reference in $...$, the response whole."""
    from math_verify import parse, verify

    return bool(verify(parse(f"${label}$"), parse(response)))


def judge(cases: list[Rewriting], grader: Callable[[str, str], bool]) -> tuple[list[bool], float]:
    """A grader's verdict on each case, and the seconds it took."""
    started = time.perf_counter()
    verdicts = []
    for case in cases:
        verdict = False
        with contextlib.suppress(Exception):
            verdict = grader(case.response, case.label)
        verdicts.append(verdict)
    return verdicts, time.perf_counter() - started


def table(cases: list[Rewriting], verdicts: dict[str, list[bool]]) -> str:
    """Rates by kind of rewriting, as Markdown."""
    lines: list[str] = []
    for acceptable, title, wrong in ((True, "Acceptable, but refused", False), (False, "Wrong, but accepted", True)):
        lines += [f"| {title} | cases | {' | '.join(verdicts)} |", f"|---|---:|{'---:|' * len(verdicts)}"]
        kinds = sorted({case.kind for case in cases if case.acceptable is acceptable})
        for kind in ["all", *kinds]:
            picked = [i for i, one in enumerate(cases) if one.acceptable is acceptable and kind in ("all", one.kind)]
            shares = [sum(said[i] is wrong for i in picked) / len(picked) for said in verdicts.values()]
            lines.append(f"| {kind} | {len(picked)} | {' | '.join(f'{share:.1%}' for share in shares)} |")
        lines.append("")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Generate, grade, and write the results; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", type=Path, default=[HERE / "grading_answers.jsonl"], metavar="FILE")
    parser.add_argument("--answers", type=int, default=360, metavar="N", help="reference answers to rewrite")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--held_out_from", nargs="+", type=int, default=[], metavar="SEED", help="leave out the answers of these seeds"
    )
    parser.add_argument("--only_ours", action="store_true", help="leave math-verify out")
    parser.add_argument("--misjudged", action="store_true", help="print what our grader gets wrong")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write grading.md and grading.json there")
    args = parser.parse_args(argv)
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    cases = generate(load(args.data), args.answers, args.seed, args.held_out_from)
    if not cases:
        parser.error("no reference answer is left: give more --data, or fewer --answers or --held_out_from")
    graders = {"ours": ours} if args.only_ours else {"ours": ours, "math-verify": math_verify}
    verdicts: dict[str, list[bool]] = {}
    seconds: dict[str, float] = {}
    for name, grader in graders.items():
        verdicts[name], seconds[name] = judge(cases, grader)
    misjudged = [case for case, said in zip(cases, verdicts["ours"], strict=True) if said is not case.acceptable]
    if args.misjudged:
        for case in misjudged:
            print(
                f"{'refused ' if case.acceptable else 'accepted'} [{case.kind}] {case.label}   <-   {case.response!r}"
            )
    shown = table(cases, verdicts)
    if args.out is None:
        print(shown)
        print({name: f"{1000 * spent / len(cases):.1f} ms a case" for name, spent in seconds.items()})
        return 0
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "data": [path.name for path in args.data],
        "seed": args.seed,
        "held_out_from": args.held_out_from,
        "machine": cpu_name(),
        "references": len({case.label for case in cases}),
        "acceptable": sum(case.acceptable for case in cases),
        "wrong": sum(not case.acceptable for case in cases),
        "milliseconds_a_case": {name: round(1000 * spent / len(cases), 2) for name, spent in seconds.items()},
        "misjudged": [vars(case) for case in misjudged],
    }
    write_result(args.out, "grading", result, shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
