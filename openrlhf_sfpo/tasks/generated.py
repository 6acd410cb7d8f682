"""Problems that reasoning-gym generates: `reasoning_gym:NAME?option=value&...`."""

import dataclasses
import difflib
import itertools
import json
from typing import Any
from urllib.parse import parse_qsl

from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.tasks.sources import REASONING_GYM

# Default seeds, per flag: a continued run, and all runs of a comparison, must have the same problems. Far apart,
# because problem i depends on seed + i.
_SEEDS = {"--data.prompt_dataset": 1, "--eval.dataset": 1_000_003}
_OTHER_SEED = 2_000_003


def generate(flag: str, spec: str, input_key: str, label_key: str, first: int | None = None) -> list[dict[str, Any]]:
    """The rows of a reasoning-gym data set. The label contains what its own scorer needs, as JSON.

    Args:
        flag: the flag that names the data set, for errors.
        spec: its name and options.
        input_key: the question's field in the rows. If a text field of the metadata has this name, it is the prompt
            itself.
        label_key: the label's field in the rows.
        first: the number of rows to generate, from the start; None for all.

    Raises:
        UsageError: an unknown name or option, or a value that the data set does not accept.
    """
    name, options = parse_spec(flag, spec)
    dataset = create(flag, name, options)
    try:
        entries = list(itertools.islice(iter(dataset), first))
    except Exception as error:  # the generator only finds some bad values here
        raise _refused(flag, name, options, error) from None
    labels = [json.dumps({"dataset": name, "options": options, "entry": _plain(entry)}) for entry in entries]
    prompts = [entry["question"] for entry in entries]
    # A metadata field of this name is the prompt itself: chain_sum's "expression" is its question without the sentence
    # around it.
    fields = [entry.get("metadata", {}).get(input_key) for entry in entries]
    if all(isinstance(field, str) for field in fields):
        prompts = fields
    return [
        {input_key: prompt, label_key: label, "datasource": name} for prompt, label in zip(prompts, labels, strict=True)
    ]


def size_of(flag: str, spec: str) -> int:
    """The number of problems in a data set, without generating any."""
    return len(create(flag, *parse_spec(flag, spec)))


def create(flag: str, name: str, options: dict[str, Any]) -> Any:
    """A reasoning-gym data set, whose problems are generated on access. Without a seed it gets the flag's default."""
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(name, **{"seed": _SEEDS.get(flag, _OTHER_SEED), **options})
    except Exception as error:  # AssertionError, or anything else from the constructor
        raise _refused(flag, name, options, error) from None


def parse_spec(flag: str, spec: str) -> tuple[str, dict[str, Any]]:
    """The data set's name and options, checked against reasoning-gym."""
    import reasoning_gym

    name, _, query = spec.removeprefix(REASONING_GYM).partition("?")
    known = sorted(reasoning_gym.factory.DATASETS)
    if name not in known:
        close = difflib.get_close_matches(name, known, 3) or [other for other in known if name[:4] in other][:5]
        hint = f"Did you mean {' or '.join(close)}?" if close else f"It has {', '.join(known[:8])} and others."
        raise UsageError(flag, f"reasoning-gym has no data set {name!r}.", hint)
    options = _options(flag, spec, query)
    takes = [field.name for field in dataclasses.fields(reasoning_gym.factory.DATASETS[name][1])]
    for option in options:
        if option not in takes:
            close = difflib.get_close_matches(option, takes, 1)
            hint = f"Did you mean {close[0]}?" if close else f"It takes {', '.join(takes)}."
            raise UsageError(flag, f"{name} has no option {option!r}.", hint)
    return name, options


def _refused(flag: str, name: str, options: dict[str, Any], error: Exception) -> UsageError:
    given = ", ".join(f"{key}={value}" for key, value in options.items()) or "its defaults"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UsageError(flag, f"reasoning-gym's {name} does not take {given} ({reason}).", "Correct the options.")


def _options(flag: str, spec: str, query: str) -> dict[str, Any]:
    """The options of a query string; a repeated one is a list."""
    values: dict[str, list[Any]] = {}
    for piece in filter(None, query.split("&")):
        key, equals, value = piece.partition("=")
        if not key or not equals or not value:
            raise UsageError(flag, f"{spec} has the option {piece!r} without a value.", "Write NAME=VALUE.")
    for key, value in parse_qsl(query):
        values.setdefault(key, []).append(_number(value))
    return {key: found if len(found) > 1 else found[0] for key, found in values.items()}


def _number(value: str) -> Any:
    """An option's value: a number, true/false, or text."""
    try:
        return json.loads(value.lower())
    except ValueError:
        return value


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """The part of an entry that JSON can hold: some generators put objects into the metadata that only they use."""
    return json.loads(json.dumps(entry, default=str))
