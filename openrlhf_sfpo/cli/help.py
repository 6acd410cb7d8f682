"""The help of `openrlhf-sfpo train`: what a run needs, and the flags by topic."""

import argparse
import copy
from collections.abc import Sequence

from openrlhf_sfpo.cli import dry_run
from openrlhf_sfpo.cli.flags import build_parser
from openrlhf_sfpo.config.flag_descriptions import DEFAULTS, DESCRIPTIONS, NO_EFFECT, TOPICS
from openrlhf_sfpo.config.flag_table import path_flags, ranges
from openrlhf_sfpo.config.flags import CHANGED_DEFAULTS
from openrlhf_sfpo.config.suggestions import similar
from openrlhf_sfpo.system.errors import UsageError

_NEEDED = {
    "actor.model_name_or_path DIR": "the Hugging Face model to train",
    "data.prompt_dataset SOURCE": "prompts: .jsonl, .json or .parquet files, reasoning_gym:NAME?option=value, or a "
    "data set of the hub",
    "reward.remote_url REWARD": "math, math_boxed, last_integer, exact, reasoning_gym, FILE.py or a URL",
    "rollout.n_samples_per_prompt N": "responses to each prompt, 2 or more; 8 is usual",
    "vllm.num_engines N": "engines that sample them",
    "actor.num_gpus_per_node N": "ranks of the actor on each node (default: 8)",
}
_OFTEN = {
    "config FILE.yaml": "flags from a file, with the same names, nested or dotted; may be repeated: later files win, "
    "and the command line wins over all files",
    "run.dir DIR": "the directory for all output; an unfinished run in it is continued (default: runs/TIME)",
    "data.label_key NAME": "the field of the right answers",
    "dry-run": dry_run.HELP,
}
_WIDTH = 34


def help_asked(words: Sequence[str]) -> str | None:
    """The topic of a request for help, "" for no particular one; None if there is no such request."""
    for index, word in enumerate(words):
        if word in ("-h", "--help"):
            following = words[index + 1] if index + 1 < len(words) else ""
            return "" if following.startswith("-") and not following.startswith("--") else following
        if word.startswith("--help="):
            return word.removeprefix("--help=")
    return None


def help_text(topic: str) -> str:
    """The help for a topic, a flag (without its section, too, if that is unique), all flags ("all") or beginners ("").

    Raises:
        UsageError: there is no such topic.
    """
    if topic == "":
        return _beginning()
    parser = build_parser()
    if topic == "all":
        return parser.format_help()
    name = topic.removeprefix("--").removeprefix("no-").rstrip(".")
    found = [action for action in parser._actions if action.dest == name]
    found = found or [action for action in parser._actions if action.dest.startswith(f"{name}.")]
    if not found:
        ends = [action for action in parser._actions if action.dest.endswith(f".{name}")]
        found = ends if len(ends) == 1 else []
    if not found:
        names = [*TOPICS, "all", *(action.dest for action in parser._actions)]
        close = [one for one in similar(name, names) if one]
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        raise UsageError("--help", f"knows no topic {topic!r}.", f"{hint}Topics are {', '.join(TOPICS)} and all.")
    formatter = argparse.HelpFormatter("openrlhf-sfpo train", max_help_position=_WIDTH, width=110)
    formatter.start_section(f"{name}: {TOPICS[name]}" if name in TOPICS else name)
    formatter.add_arguments([_shown(action) for action in found])
    formatter.end_section()
    return formatter.format_help()


def _shown(action: argparse.Action) -> argparse.Action:
    """The flag with its description, range and default, and with a short placeholder for its value."""
    action = copy.copy(action)
    name, limits = action.dest, ranges().get(action.dest)
    # Our description replaces OpenRLHF's help. argparse would interpolate percent signs.
    parts = [DESCRIPTIONS[name].replace("`", "").replace("%", "%%") if name in DESCRIPTIONS else action.help or ""]
    if name in NO_EFFECT:
        parts.append("(no effect with the Megatron actor)")
    if limits is not None:
        parts.append(f"[{limits}]")
    default = DEFAULTS[name].replace("`", "") if name in DEFAULTS else action.default
    if default not in (None, "", (), argparse.SUPPRESS) and "default: " not in parts[0]:
        parts.append(f"(default: {default})".replace("%", "%%"))
    action.help = " ".join(part.strip() for part in parts if part.strip())
    if action.nargs != 0 and action.choices is None:
        numbers: dict[object, str] = {int: "N", float: "X"}
        action.metavar = "PATH" if name in path_flags() else numbers.get(action.type, "TEXT")
    return action


def _beginning() -> str:
    changed = ", ".join(f"--{name} {value}" for name, (value, _) in CHANGED_DEFAULTS.items())
    topics = "\n".join(f"  {name:10s} {what}" for name, what in TOPICS.items())
    return f"""usage: openrlhf-sfpo train [--config FILE.yaml] [FLAGS]

Train a model with SFPO, or with --no-sfpo.enable with GRPO. Takes every flag of OpenRLHF's train_ppo_ray and ours.
Defaults that differ from OpenRLHF's: {changed};
checkpoints, model and logs go into --run.dir.

what a run needs, on the command line or in FILE.yaml:
{_listed(_NEEDED)}

often used:
{_listed(_OFTEN)}

topics (openrlhf-sfpo train --help TOPIC; --help all for all flags, --help sfpo.k for one):
{topics}
"""


def _listed(flags: dict[str, str]) -> str:
    lines = []
    for flag, text in flags.items():
        words, line = text.split(), f"  --{flag} ".ljust(_WIDTH)
        if len(line) > _WIDTH:
            lines.append(line)
            line = " " * _WIDTH
        for word in words:
            if len(line) + len(word) + 1 > 110:
                lines.append(line.rstrip())
                line = " " * _WIDTH
            line += f"{word} "
        lines.append(line.rstrip())
    return "\n".join(lines)
