"""Checks batch sizes against the number of prompts."""

from collections.abc import Container

from openrlhf_sfpo.config.checks import model_copies
from openrlhf_sfpo.config.flags import REFILLING
from openrlhf_sfpo.config.namespaces import NestedFlags, value_of
from openrlhf_sfpo.runs.data_check import EVAL, PROMPTS, DataCheck
from openrlhf_sfpo.system.errors import UsageError


def check_batches(args: NestedFlags, data: DataCheck, given: Container[str] = ()) -> None:
    """Check batch sizes against the number of prompts, and the metric of the best checkpoint against the data sets.

    Args:
        args: nested.
        data: the data, after its sets have been read.
        given: names of the flags that were set. The default of --rollout.batch_size may be larger than the data: a
            batch then has all prompts.

    Raises:
        UsageError: naming the flag and the fix.
    """
    _check_metric(args, data.datasources(EVAL))
    if args.rollout.replay_dir:
        return
    count = data.size(PROMPTS)
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
    filtered = any(value_of(args, name) for name in REFILLING)
    if not last or filtered or samples // args.rollout.micro_batch_size >= copies:
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


def _check_metric(args: NestedFlags, sources: list[str] | None) -> None:
    """Refuse a --ckpt.best_metric_key that no evaluation reports: OpenRLHF would silently keep no best checkpoint."""
    key = args.ckpt.best_metric_key
    if key in ("", "none"):
        return
    if not args.eval.dataset:
        raise UsageError(
            "--ckpt.best_metric_key", f"is {key!r}, and nothing is evaluated.", "Give --eval.dataset, or drop it."
        )
    ends = [f"pass{n}" for n in sorted({1, args.eval.n_samples_per_prompt})]
    if sources is None:
        if not (key.startswith("eval_") and key.endswith(tuple(f"_{end}" for end in ends))):
            raise UsageError(
                "--ckpt.best_metric_key", f"is {key!r}.", f"Use eval_NAME_{ends[0]} with the name of a data source."
            )
        return
    known = [f"eval_{source}_{end}" for source in sources for end in ends]
    if key not in known:
        raise UsageError("--ckpt.best_metric_key", f"is {key!r}.", f"Use one of {', '.join(known)}, or none.")
