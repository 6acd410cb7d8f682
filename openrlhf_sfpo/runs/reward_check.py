"""Checks of the reward flags before anything is started."""

import dataclasses
import functools
import json
from pathlib import Path

from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.runs.data_check import DataCheck
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.tasks.answers import reasoning_gym_label
from openrlhf_sfpo.tasks.reward_files import check_file, split_spec
from openrlhf_sfpo.tasks.rewards import BUILTIN, FLAG, SANDBOXED, check_reward, is_url

AGENT_FLAG = "--train.agent_func_path"


def check_rewards(args: NestedFlags) -> None:
    """Check the names of rewards; `args` is nested.

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
    if not url:
        return
    specs = [spec.strip() for spec in url.split(",")]
    if len(specs) > 1 and not all(map(is_url, specs)):
        raise UsageError(
            FLAG, f"names {len(specs)} rewards ({url}).", "Name one, which may call others; only URLs may be several."
        )
    check_reward(specs[0])
    if specs[0] in SANDBOXED:
        from openrlhf_sfpo.tasks.code import sandbox

        problem = sandbox.problem()
        if problem is not None:
            raise UsageError(
                FLAG,
                f"is {specs[0]}, which runs programs in a sandbox. There can be none here: {problem}.",
                "Allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 and "
                "kernel.apparmor_restrict_unprivileged_userns=0, in a container --security-opt seccomp=unconfined "
                "--security-opt apparmor=unconfined. Or use a reward server elsewhere.",
            )


def try_rewards(args: NestedFlags, data: DataCheck) -> None:
    """Try the user's reward function on one row of the data, in a separate process.

    Args:
        args: nested.
        data: the data, after its sets have been read and the tokenizer loaded.

    Raises:
        UsageError: it fails, or a built-in one cannot use these labels.
    """
    spec, seconds = args.reward.remote_url, args.run.reward_trial
    if not spec or is_url(spec) or args.rollout.replay_dir or args.train.agent_func_path:
        return
    from openrlhf_sfpo.tasks.reward_trial import MADE_UP, Sample

    first = data.first()
    if spec in BUILTIN:
        if spec == "reasoning_gym" and first is not None and reasoning_gym_label(first[1]) is None:
            raise UsageError(
                FLAG,
                f"is reasoning_gym, and {first[2]} has the plain label {str(first[1])[:40]!r}.",
                "Use math, last_integer or exact, or a reasoning_gym:NAME data set.",
            )
        return
    if seconds > 0:
        file = Path(split_spec(spec)[0])
        changed = file.stat().st_mtime_ns if file.is_file() else 0
        sample = Sample(first[0], "" if first[1] is None else first[1], first[2]) if first else MADE_UP
        not_finite = _try_once(spec, json.dumps(dataclasses.astuple(sample)), seconds, changed)
        if not_finite and args.train.on_nonfinite == "stop":
            fix = "Return finite numbers, or give --train.on_nonfinite skip, which leaves batches with others out."
            raise UsageError(FLAG, not_finite, fix)
        if not_finite:
            data.notes.append(f"{FLAG}: {not_finite} --train.on_nonfinite skip leaves such batches out.")


@functools.cache
def _try_once(spec: str, sample: str, seconds: float, changed: int) -> str:
    """The problem if a reward is not finite, else "". Cached, because the runs of a comparison share the reward.
    `sample` is a row as JSON; `changed` is the file's modification time."""
    from openrlhf_sfpo.tasks.reward_trial import NotFiniteError, Sample, try_reward

    try:
        try_reward(FLAG, spec, Sample(*json.loads(sample)), seconds, "--run.reward_trial 0 skips this trial.")
    except NotFiniteError as error:
        return error.problem
    return ""
