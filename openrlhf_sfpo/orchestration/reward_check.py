"""The reward flags, checked before anything is started."""

import functools
import json
from pathlib import Path
from typing import Any

from openrlhf_sfpo.errors import UsageError
from openrlhf_sfpo.tasks.answers import reasoning_gym_label
from openrlhf_sfpo.tasks.data import FILES, REASONING_GYM, generate, read_rows
from openrlhf_sfpo.tasks.reward_files import check_file, split_spec
from openrlhf_sfpo.tasks.rewards import BUILTIN, FLAG, check_reward, is_url

AGENT_FLAG = "--train.agent_func_path"


def check_rewards(args: Any) -> None:
    """Check that the rewards' names mean something; `args` is nested.

    Raises:
        UsageError: naming the flag and the fix.
    """
    url, agent = args.reward.remote_url, args.train.agent_func_path
    if agent:
        fix = "Define it as a subclass of OpenRLHF's AgentExecutorBase."
        check_file(AGENT_FLAG, Path(agent), "AgentExecutor", fix)
    elif not url and not args.rollout.replay_dir:
        raise UsageError(
            FLAG,
            "is not given, so that nothing would be rewarded.",
            f"Give a Python file, a built-in reward's name or a URL (or {AGENT_FLAG}).",
        )
    if not args.run.reward_trial >= 0:
        raise UsageError("--run.reward_trial", f"is {args.run.reward_trial:g} seconds.", "Use 0 (no trial) or more.")
    if not url:
        return
    specs = [spec.strip() for spec in url.split(",")]
    if len(specs) > 1 and not all(map(is_url, specs)):
        raise UsageError(
            FLAG, f"names {len(specs)} rewards ({url}).", "Name one, which may call others; only URLs may be several."
        )
    check_reward(specs[0])


def try_rewards(args: Any) -> None:
    """Try the user's own reward function on a row of the data, in a process of its own.

    Raises:
        UsageError: it does not work, or a built-in one cannot work on these labels.
    """
    spec, seconds = args.reward.remote_url, args.run.reward_trial
    if not spec or is_url(spec) or args.rollout.replay_dir or args.train.agent_func_path:
        return
    from openrlhf_sfpo.tasks.reward_trial import MADE_UP

    sample = first_sample(args)
    if spec in BUILTIN:
        if spec == "reasoning_gym" and sample is not None and reasoning_gym_label(sample.label) is None:
            raise UsageError(
                FLAG,
                f"is reasoning_gym, and {sample.source} has the plain label {sample.label[:40]!r}.",
                "Use math, last_integer or exact, or a reasoning_gym:NAME data set.",
            )
        return
    if seconds > 0:
        file = Path(split_spec(spec)[0])
        changed = file.stat().st_mtime_ns if file.is_file() else 0
        _try_once(spec, sample or MADE_UP, seconds, changed)


@functools.cache
def _try_once(spec: str, sample: Any, seconds: float, changed: int) -> None:
    """The runs of a comparison have the same reward. `changed`: when its file was."""
    from openrlhf_sfpo.tasks.reward_trial import try_reward

    try_reward(FLAG, spec, sample, seconds, "--run.reward_trial 0 skips this trial.")


def first_sample(args: Any) -> Any:
    """The first row of the training data, None if it is not on this machine yet or cannot be read."""
    from openrlhf_sfpo.tasks.reward_trial import Sample

    part = args.data.prompt_dataset.split(",")[0].strip()
    label_key = args.data.label_key
    try:
        if part.startswith(REASONING_GYM):
            name, _, query = part.partition("?")
            options = [option for option in query.split("&") if option and not option.startswith("size=")]
            part_of = f"{name}?{'&'.join([*options, 'size=1'])}"
            row = generate("--data.prompt_dataset", part_of, args.data.input_key, label_key or "label")[0]
            where, label_key = name, label_key or "label"
        elif Path(part).suffix in FILES and Path(part).is_file():
            place, row = next(iter(read_rows("--data.prompt_dataset", Path(part))))
            where = f"{place} of {part}"
        else:
            return None
    except (UsageError, StopIteration, OSError):
        return None
    prompt, label = row.get(args.data.input_key, ""), row.get(label_key) if label_key else None
    if isinstance(prompt, list):  # a chat
        prompt = "\n".join(str(turn.get("content", "")) for turn in prompt if isinstance(turn, dict))
    return Sample(str(prompt), "" if label is None else _as_text(label), where)


def _as_text(label: Any) -> str:
    return label if isinstance(label, str) else json.dumps(label)
