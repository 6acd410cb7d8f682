"""Batches against the data: how many prompts there are, and what a run makes of them."""

import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from openrlhf_sfpo.checks import model_copies
from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.tasks.data import REASONING_GYM


def check_batches(args: Any, given: Container[str] = ()) -> None:
    """Check batch sizes against the number of prompts, and the metric of the best checkpoint against the data.

    Args:
        args: nested; the files that it names have been checked.
        given: names of the flags that were set. The default of --rollout.batch_size may be larger than the data: a
            batch then has all prompts.

    Raises:
        UsageError: naming the flag and the fix.
    """
    _check_metric(args)
    if args.rollout.replay_dir:
        return
    count = count_prompts(args.data.prompt_dataset)
    if count is None or args.data.prompt_probs is not None:
        return
    prompts = min(count, args.data.max_samples)
    limited = f" (--data.max_samples, of {count} in the data)" if prompts < count else ""
    if args.rollout.batch_size > prompts and "rollout.batch_size" in given:
        raise UsageError(
            "--rollout.batch_size",
            f"is {args.rollout.batch_size}, and --data.prompt_dataset has {prompts} prompt(s){limited}.",
            f"Use {prompts} or less.",
        )
    last = prompts % args.rollout.batch_size
    samples, copies = last * args.rollout.n_samples_per_prompt, model_copies(args)
    if not last or args.algo.dynamic_filtering_enable or samples // args.rollout.micro_batch_size >= copies:
        return
    if last == prompts:
        raise UsageError(
            "--data.prompt_dataset",
            f"has {prompts} prompt(s){limited}, which make {samples} samples, fewer than the {copies} copies of the "
            "model that the actor's ranks hold.",
            "Give it more prompts, raise --rollout.n_samples_per_prompt, or use fewer ranks.",
        )
    raise UsageError(
        "--rollout.batch_size",
        f"is {args.rollout.batch_size}, which leaves {last} of the {prompts} prompts{limited} for the last batch: "
        f"{samples} samples, fewer than the {copies} copies of the model that the actor's ranks hold.",
        f"Use a size that divides {prompts}, or --data.max_samples {prompts - last}.",
    )


def count_prompts(spec: str) -> int | None:
    """The number of prompts in comma-separated data sets; None where one is still to be downloaded or made."""
    counts = [_count(part.strip()) for part in spec.split(",")]
    return None if None in counts else sum(count for count in counts if count is not None)


def _count(part: str) -> int | None:
    if part.startswith(REASONING_GYM):
        return _generated(part.removeprefix(REASONING_GYM))
    path = Path(part)
    if not path.is_file():
        return None
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as lines:
            return sum(1 for line in lines if line.strip())
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_metadata(path).num_rows
    return sum(1 for _ in _json_rows(path)) if path.suffix == ".json" else None


def _generated(spec: str) -> int | None:
    """The size that is asked of reasoning-gym. (Its default is that of the data set, mostly 500.)"""
    name, _, query = spec.partition("?")
    sizes = parse_qs(query).get("size")
    if sizes:
        return int(sizes[0]) if len(sizes) == 1 and sizes[0].isdecimal() else None
    import reasoning_gym

    found = reasoning_gym.factory.DATASETS.get(name)
    return getattr(found[1](), "size", None) if found else None


def _json_rows(path: Path) -> Iterator[Any]:
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        yield from json.loads(text)
    else:
        yield from (json.loads(line) for line in text.split("\n") if line.strip())


def _check_metric(args: Any) -> None:
    """With a --ckpt.best_metric_key that no evaluation has, OpenRLHF would keep no best checkpoint and say nothing."""
    key = args.ckpt.best_metric_key
    if key in ("", "none"):
        return
    if not args.eval.dataset:
        raise UsageError(
            "--ckpt.best_metric_key", f"is {key!r}, and nothing is evaluated.", "Give --eval.dataset, or drop it."
        )
    ends = [f"pass{n}" for n in sorted({1, args.eval.n_samples_per_prompt})]
    sources = _sources(args.eval.dataset)
    if sources is None:
        if not (key.startswith("eval_") and key.endswith(tuple(f"_{end}" for end in ends))):
            raise UsageError(
                "--ckpt.best_metric_key", f"is {key!r}.", f"Use eval_NAME_{ends[0]} with the name of a data source."
            )
        return
    known = [f"eval_{source}_{end}" for source in sources for end in ends]
    if key not in known:
        raise UsageError("--ckpt.best_metric_key", f"is {key!r}.", f"Use one of {', '.join(known)}, or none.")


def _sources(spec: str) -> list[str] | None:
    """The names under which the data sets of a specification are evaluated; None where they cannot be known yet."""
    found: dict[str, None] = {}
    for part in (piece.strip() for piece in spec.split(",")):
        path = Path(part)
        if part.startswith(REASONING_GYM):
            found[part.removeprefix(REASONING_GYM).partition("?")[0]] = None
        elif path.is_file() and path.suffix in (".json", ".jsonl"):
            found.update(dict.fromkeys(str(row.get("datasource", "default")) for row in _json_rows(path)))
        else:
            return None
    return list(found)
