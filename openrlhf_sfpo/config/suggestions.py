"""Suggestions for misspelled flags."""

import difflib
import re
from collections.abc import Iterable

from openrlhf_sfpo.config.openrlhf_flags import GONE, RENAMED
from openrlhf_sfpo.system.errors import UsageError

# Characters that word processors and web pages turn hyphens into.
DASHES = "-\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{FIGURE DASH}\N{EN DASH}\N{EM DASH}\N{HORIZONTAL BAR}\N{MINUS SIGN}"
_MANY = 4
# Other names for values (without hyphens and underscores): the value that each means, and why.
_GRPO = ("group_norm", "group_norm is GRPO")
_ALSO_CALLED: dict[str, dict[str, tuple[str, str]]] = {
    "algo.advantage.estimator": {
        "grpo": _GRPO,
        "dapo": _GRPO,
        "gspo": ("group_norm", "GSPO is group_norm with --actor.policy_loss_type gspo"),
        "reinforce++": ("reinforce", "reinforce is REINFORCE++"),
        "reinforceplusplus": ("reinforce", "reinforce is REINFORCE++"),
        "reinforce++baseline": ("reinforce_baseline", "reinforce_baseline is REINFORCE++-baseline"),
    },
    "actor.policy_loss_type": {"grpo": ("ppo", "GRPO clips as PPO does")},
    "actor.optim": {"adamw": ("adam", "with decoupled weight decay, --actor.adam.weight_decay")},
    "ds.param_dtype": {"bfloat16": ("bf16", ""), "float16": ("fp16", "")},
    "megatron.param_dtype": {"bfloat16": ("bf16", ""), "float32": ("fp32", "")},
    "run.engine_dtype": {"bf16": ("bfloat16", ""), "fp32": ("float32", "")},
    "megatron.attention_backend": dict.fromkeys(("flashattention2", "flashattn", "fa2"), ("flash", "")),
    "megatron.device": {"gpu": ("cuda", "")},
}


def unknown_flag(word: str, names: Iterable[str]) -> UsageError:
    """The error for a word of a command line that looks like a flag and is not one.

    Args:
        word: without its value.
        names: of all flags, without dashes.
    """
    name = word.lstrip(DASHES)
    known = list(names)
    if name in known:
        return UsageError(word, "is not a flag.", f"Write --{name}, with two hyphens.")
    problem, fix = _advice(name, known, "--")
    return UsageError(word, f"{problem}.", fix)


def unknown_setting(name: str, place: str, names: Iterable[str]) -> UsageError:
    """The error for a name in a file that is not a flag's.

    Args:
        name: dotted.
        place: file and line.
        names: of all flags.
    """
    known = list(names)
    if name == "config":
        return UsageError(place, "sets 'config', and a file cannot include another one.", "Put its lines here.")
    above = next((flag for flag in known if name.startswith(f"{flag}.")), None)
    if above is not None:
        fix = "Write a text in quotes, such as '{}'." if above.endswith("template") else "Correct it."
        return UsageError(place, f"sets {name!r}, but {above} takes a value and no settings of its own.", fix)
    if name.startswith("no-") and name.removeprefix("no-") in known:
        return UsageError(place, f"sets {name!r}, which is not a flag.", f"Write {name.removeprefix('no-')}: false.")
    inside = [flag for flag in known if flag.startswith(f"{name}.")]
    if inside:
        return UsageError(
            place, f"gives {name!r} a value, but it is a section.", f"Set flags in it, such as {', '.join(inside[:2])}."
        )
    if name.startswith("--") and name.removeprefix("--") in known:
        return UsageError(place, f"sets {name!r}, which is not a flag.", f"Write {name.removeprefix('--')}.")
    problem, fix = _advice(name, known, "")
    return UsageError(place, f"sets {name!r}, which {problem}.", fix)


def stray_word(word: str, after: str | None, switch: bool, names: Iterable[str]) -> UsageError:
    """The error for a word of a command line that is neither a flag nor a flag's value.

    Args:
        word: the word.
        after: the flag before it, if there is one.
        switch: whether that flag takes no value.
        names: of all flags.
    """
    if after is not None and switch:
        return takes_no_value(after, word)
    if word.endswith((".yaml", ".yml")):
        return UsageError(repr(word), "is neither a flag nor the value of one.", f"Write --config {word}.")
    name, equals, value = word.partition("=")
    if equals and name in set(names):
        return UsageError(repr(word), "is neither a flag nor the value of one.", f"Write --{name} {value}.")
    before = f" (after {after}, which takes one value)" if after else ""
    return UsageError(
        repr(word), f"is neither a flag nor the value of one{before}.", "Put a text with blanks into quotation marks."
    )


def takes_no_value(flag: str, value: str) -> UsageError:
    """The error for a value given to a flag that takes none.

    Args:
        flag: with its dashes.
        value: the value.
    """
    name, asked = flag.removeprefix("--").removeprefix("no-"), truth(value)
    if asked is None:
        return UsageError(flag, f"takes no value, and {value!r} follows it.", "Leave that out.")
    on = asked != flag.startswith("--no-")
    return UsageError(flag, f"takes no value, and {value!r} follows it.", f"Write --{'' if on else 'no-'}{name}.")


def lacks_value(flag: str, following: str | None, names: Iterable[str]) -> UsageError:
    """The error for a flag without its value.

    Args:
        flag: with its dashes.
        following: the word after it, if there is one.
        names: of all flags.
    """
    is_text = following is not None and following.partition("=")[0].removeprefix("--") not in set(names)
    hint = f" If it begins with a hyphen, write {flag}={following}." if is_text else ""
    return UsageError(flag, "has no value.", f"Write one after it.{hint}")


def looks_like_a_flag(word: str) -> bool:
    """Whether a word was meant as a flag: it begins with a hyphen or a similar character."""
    return len(word) > 1 and word[0] in DASHES and not _is_number(word)


def ends_values(word: str) -> bool:
    """Whether a word cannot be a flag's value: it begins with a hyphen and is neither a number nor a list item."""
    return len(word) > 1 and word[0] == "-" and not word[1].isspace() and not _is_number(word)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def truth(text: str) -> bool | None:
    """The boolean that a word stands for; None if it stands for none."""
    word = text.strip().lower()
    return True if word in _TRUE else False if word in _FALSE else None


_TRUE, _FALSE = ("true", "yes", "on", "y", "1"), ("false", "no", "off", "n", "0")


def _advice(name: str, known: list[str], dashes: str) -> tuple[str, str]:
    """The problem with the name, and the fix."""
    if name in RENAMED:
        return "is not a flag (it was one of earlier versions of OpenRLHF)", f"Write {dashes}{RENAMED[name]}."
    if name in GONE:
        return "is not a flag (it was one of earlier versions of OpenRLHF)", GONE[name]
    close = similar(name, known)
    if not close and name.rpartition(".")[2] in RENAMED:
        return "is not a flag", f"Write {dashes}{RENAMED[name.rpartition('.')[2]]}."
    if not close:
        topic = name.partition(".")[0]
        if any(one.startswith(f"{topic}.") for one in known):
            return "is not a flag", f"`openrlhf-sfpo train --help {topic}` lists its flags."
        return "is not a flag", "`openrlhf-sfpo train --help` lists the topics."
    return "is not a flag", f"Did you mean {' or '.join(f'{dashes}{one}' for one in close)}?"


def meant(name: str, value: str, choices: Iterable[str]) -> str:
    """A question such as "Did you mean ...?" about a flag's values; empty if there is no likely one.

    Args:
        name: the flag's name, without dashes.
        value: what was given.
        choices: the values that the flag accepts.
    """
    known = list(choices)
    close, reason = _ALSO_CALLED.get(name, {}).get(_plain(value), ("", ""))
    if close not in known:
        found = similar(value, known)
        close, reason = (found[0], "") if len(found) == 1 else ("", "")
    if not close:
        return ""
    return f"Did you mean {close}{f' ({reason})' if reason else ''}?"


def similar(name: str, known: Iterable[str]) -> list[str]:
    """Up to four names like this one, the likeliest first."""
    names = [one for one in known if not one.startswith("no-")]
    plain = {_plain(one): one for one in names}
    negated = name.startswith("no-") or name.startswith("no_")
    wanted = _plain(name[3:] if negated else name)
    if wanted in plain:
        return [f"no-{plain[wanted]}" if negated and f"no-{plain[wanted]}" in set(known) else plain[wanted]]
    ends = [one for one in names if wanted and _plain(one.rpartition(".")[2]) == wanted]
    if 0 < len(ends) <= _MANY:
        return ends
    section, dot, leaf = name.rpartition(".")
    if dot:  # either the section or the name is right
        leaves = [one for one in names if one.rpartition(".")[2] == leaf]
        if 0 < len(leaves) <= _MANY:
            return leaves
        siblings = {one.rpartition(".")[2]: one for one in names if one.rpartition(".")[0] == section}
        found = difflib.get_close_matches(leaf, siblings, n=2, cutoff=0.6)
        if found:
            return [siblings[one] for one in found]
    return [plain[one] for one in difflib.get_close_matches(wanted, plain, n=2, cutoff=0.75)]


def _plain(name: str) -> str:
    return re.sub(r"[-_.\s]", "", name.lower())
