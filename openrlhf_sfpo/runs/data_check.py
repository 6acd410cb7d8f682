"""Checks a run's data sets and tokenizer before the start, and describes them in the dry run."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrlhf_sfpo.config.namespaces import NestedFlags
from openrlhf_sfpo.config.openrlhf_flags import MODEL_FLAG
from openrlhf_sfpo.system.errors import NotThere, UsageError
from openrlhf_sfpo.tasks import data, generated
from openrlhf_sfpo.tasks.answers import expected_text
from openrlhf_sfpo.tasks.data import Fields, Sample, Scan
from openrlhf_sfpo.tasks.labels import TEXT_REWARDS
from openrlhf_sfpo.tasks.math_grader import only_words, readable
from openrlhf_sfpo.tasks.prompts import PromptFormat, Template, encode
from openrlhf_sfpo.tasks.skywork import EVERY_ROW, Difficulty
from openrlhf_sfpo.tasks.sources import REASONING_GYM, Source, sources_of
from openrlhf_sfpo.tasks.tokenizers import check_chat_template, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTS, EVAL = "--data.prompt_dataset", "--eval.dataset"
CODE_FLAG = "--actor.trust_remote_code"
# Built-in rewards can also be given as their module and function.
_BUILT_IN = "openrlhf_sfpo.tasks.rewards:"
# How many problems of a generated data set are checked before the run.
_GENERATED = 16
_PARSED_LABELS = 200
_SHOWN = 300
_DECODED = 200
_PLAIN_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def left_to_openrlhf(args: NestedFlags) -> bool:
    """Whether OpenRLHF reads and renders the data itself: images, and data sets of ModelScope."""
    return args.use_ms or args.data.max_images_per_prompt > 0


def fields_of(args: NestedFlags, flag: str) -> Fields:
    """The fields to read from a data set's rows; `flag` is PROMPTS or EVAL."""
    reward = (args.reward.remote_url or "").split(",")[0]
    if reward.startswith(_BUILT_IN):
        reward = reward.removeprefix(_BUILT_IN).removesuffix("_reward")
    own = args.train.agent_func_path or reward not in TEXT_REWARDS
    has_labels = _generates(args.data.prompt_dataset, args.eval.dataset) or args.data.format == "skywork"
    trains = flag == PROMPTS
    bounds = Difficulty(args.data.difficulty_model, args.data.min_difficulty, args.data.max_difficulty)
    return Fields(
        args.data.input_key,
        args.data.label_key or ("label" if has_labels else None),
        None if own else reward,
        chat=args.data.apply_chat_template,
        template=args.data.input_template is not None,
        split=args.data.prompt_split if trains else args.eval.split,
        # What is evaluated on may be in another format, and is not filtered.
        skywork={"plain": False, "skywork": True if trains else None, "auto": None}[args.data.format],
        difficulty=bounds if trains else EVERY_ROW,
    )


def _generates(*specs: str | None) -> bool:
    return any(REASONING_GYM in (spec or "") for spec in specs)


@dataclass
class _Found:
    """A data set that has been checked."""

    source: Source
    scan: Scan
    size: int


class DataCheck:
    """Checks of one run's data, the cheapest first, and the warnings about it.

    Args:
        args: the flags, nested.
        ahead: the run is not being started, so nothing may be downloaded.
    """

    def __init__(self, args: NestedFlags, ahead: bool = False) -> None:
        self._args, self._ahead = args, ahead
        self._found: dict[str, list[_Found]] = {}
        self._unread: set[str] = set()  # flags whose data sets must still be downloaded
        self._tokenizer: Any = None
        self.notes: list[str] = []  # further warnings

    def template(self) -> Template | None:
        """--data.input_template, parsed."""
        text = self._args.data.input_template
        if text is None:
            return None
        if self._args.data.apply_chat_template and left_to_openrlhf(self._args):
            raise UsageError(
                "--data.input_template",
                "is given with --data.apply_chat_template, and OpenRLHF takes one of them with images.",
                "Drop one.",
            )
        return Template.parse("--data.input_template", text)

    def flags(self) -> None:
        """Check the template, and the directory for the prepared data."""
        self.template()
        for mark in ",@":
            if mark in str(Path(self._args.run.dir).absolute()):
                raise UsageError(
                    "--run.dir",
                    f"{self._args.run.dir} has {mark!r} in its path, where OpenRLHF's data loader ends a path.",
                    "Choose another directory.",
                )

    def rows(self, flag: str, spec: str) -> None:
        """Check every row of a flag's data sets; of generated ones, the first few.

        Raises:
            UsageError: for the first row that is wrong.
            NotThere: files do not exist or, ahead of the run, data sets are yet to be downloaded.
        """
        if not spec:
            return
        fields, sources = fields_of(self._args, flag), sources_of(flag, spec)
        if left_to_openrlhf(self._args):
            return
        found = self._found.setdefault(flag, [])
        for source in sources:
            if source.kind == "generated":
                scan = data.scan(source, fields, first=_GENERATED)
                found.append(_Found(source, scan, generated.size_of(flag, source.place)))
            elif source.kind != "hub":
                scan = data.scan(source, fields)
                found.append(_Found(source, scan, scan.rows))
        if fields.reward is not None and fields.label is None:
            raise UsageError(
                "--data.label_key",
                f"is not given, and the reward {fields.reward} grades by labels.",
                "Name the field of the data that holds the answers.",
            )
        absent = [source.place for source in sources if source.kind == "hub"]
        self._unread |= {flag} if absent else set()
        if absent and self._ahead:
            raise NotThere(
                flag,
                f"{', '.join(absent)} will be downloaded from the Hugging Face hub, and its rows are not checked yet.",
                "If this is meant to be a file, give its path with its suffix.",
            )

    def size(self, flag: str) -> int | None:
        """The number of rows of a flag's data sets, after `rows`; None if not known yet."""
        known = flag in self._found and flag not in self._unread
        return sum(one.size for one in self._found[flag]) if known else None

    def datasources(self, flag: str) -> list[str] | None:
        """The names under which a flag's data sets are evaluated, after `rows`; None if not known yet."""
        if flag not in self._found or flag in self._unread:
            return None
        return sorted({name for one in self._found[flag] for name in one.scan.datasources})

    def tokenizer(self) -> None:
        """Check the tokenizer, and render a prompt of every kind in the data.

        Raises:
            UsageError: it cannot be loaded, does not fit the model, or cannot render a prompt.
        """
        args = self._args
        if self._ahead and not Path(args.actor.model_name_or_path).is_dir():
            return  # a name on the Hub
        self._tokenizer = tokenizer_of(args)
        for source, sample in self._kinds():
            text = render(self.format(), source, sample)
            if not encode(self._tokenizer, text):
                raise UsageError(
                    MODEL_FLAG,
                    f"the tokenizer makes no token of {source.place}, {sample.where}.",
                    "Download the model's tokenizer again.",
                )

    def format(self) -> PromptFormat:
        """The prompts' format, after `tokenizer`."""
        return PromptFormat(self.template(), self._args.data.apply_chat_template, self._tokenizer)

    def _kinds(self) -> Iterator[tuple[Source, Sample]]:
        """Yield the first row of every data set, and one chat for each sequence of roles."""
        for one in (one for found in self._found.values() for one in found):
            for sample in [*one.scan.samples[:1], *one.scan.shapes.values()]:
                yield one.source, sample

    def first(self) -> tuple[str, Any, str] | None:
        """The first training prompt as the model gets it (after `tokenizer`), its label as the reward gets it, and its
        place; None if there is no data yet."""
        found = self._found.get(PROMPTS)
        if not found or self._tokenizer is None:
            return None
        source, sample = found[0].source, found[0].scan.samples[0]
        where = f"{Path(source.place.partition('?')[0]).name}, {sample.where}"
        fields, label = fields_of(self._args, PROMPTS), sample.label
        if fields.reward is None and fields.label:
            label = data.own_labels([one.scan for one in found])[0][0]
        return render(self.format(), source, sample), label, where

    def example(self) -> str | None:
        """The first training prompt as the model gets it, for the dry run; None if there is no data or tokenizer."""
        first = self.first()
        if first is None:
            return None
        text, label, where = first
        tokens = encode(self._tokenizer, text)
        begun = tokens[:1] == [self._tokenizer.bos_token_id]
        start = f"begins with {self._tokenizer.bos_token}" if begun else "no start token, as the tokenizer has it"
        answer = expected_text(label) if isinstance(label, str) else label
        of = f", label {json.dumps(answer, default=str, ensure_ascii=False)[:80]}" if answer is not None else ""
        shown = json.dumps(text[:_SHOWN], ensure_ascii=False) + (" ..." if len(text) > _SHOWN else "")
        return f"A prompt as the model gets it ({where}: {_count(len(tokens), 'token')}, {start}{of}):\n  {shown}"

    def warnings(self) -> list[str]:
        """Warnings about data that can still be trained on, one line each."""
        lines = list(self.notes)
        template = self._args.data.input_template
        if template and "\\n" in template:
            lines.append(
                "--data.input_template has a backslash and an n where a line break may be meant: write $'...\\n...' in "
                "bash."
            )
        if template and (odd := re.search(r"[\x07\x08\x0b\x0c\x1b]", template)):
            lines.append(
                f"--data.input_template has the control character {odd[0]!r}: in double quotes, YAML reads a backslash "
                "and a letter as one. Write single quotes, or two backslashes."
            )
        for one in (one for found in self._found.values() for one in found):
            lines += [f"{one.source.place}: {line}" for line in self._warnings_of(one)]
        return lines

    def _warnings_of(self, found: _Found) -> Iterator[str]:
        scan = found.scan
        if scan.repeated and found.source.kind != "generated":
            yield f"{scan.repeated:,} of {_count(scan.rows, 'row')} have the prompt of an earlier row."
        if scan.contradicted:
            yield f"{_count(scan.contradicted, 'prompt')} with different labels in different rows."
        if scan.empty:
            yield f"{_count(scan.empty, 'label')} without text."
        if scan.lists:
            yield f"{_count(scan.lists, 'label')} with several answers in a list; only the first one counts."
        yield from self._tokens_of(scan)
        yield from self._unreadable(scan)

    def _tokens_of(self, scan: Scan) -> Iterator[str]:
        """Warnings about prompts that are too long, or that the tokenizer has no tokens for."""
        if self._tokenizer is None:
            return
        args, prompt_format = self._args, self.format()
        texts = [prompt_format.render(sample.prompt) for sample in scan.samples]
        tokens = [encode(self._tokenizer, text) for text in texts]
        limit = args.data.max_len - (args.rollout.max_new_tokens or 1)
        longer = sum(len(ids) > limit for ids in tokens)
        if longer:
            yield (
                f"{longer:,} of {_count(len(tokens), 'prompt')} looked at with more than the {limit:,} tokens that "
                f"--data.max_len {args.data.max_len} and the response leave (the longest {max(map(len, tokens)):,}); "
                "a prompt that is too long loses its beginning."
            )
        checked = list(zip(texts, tokens, strict=True))[:_DECODED]
        lost = [text for text, ids in checked if loses_text(self._tokenizer, text, ids)]
        if lost:
            yield (
                f"{len(lost):,} of {_count(len(checked), 'prompt')} looked at with characters that the tokenizer has "
                f"no tokens for, such as {lost[0][:_SHOWN]!r}."
            )

    def _unreadable(self, scan: Scan) -> Iterator[str]:
        reward = fields_of(self._args, PROMPTS).reward
        if reward not in ("math", "math_boxed"):
            return
        distinct: dict[str, Sample] = {}
        for sample in scan.samples:
            if not _PLAIN_NUMBER.fullmatch(sample.label):
                distinct.setdefault(sample.label, sample)
        distinct.pop("", None)
        looked_at = list(distinct.values())[:: max(1, -(-len(distinct) // _PARSED_LABELS))]
        unreadable = [sample for sample in looked_at if not readable(sample.label)]
        if unreadable:
            first = unreadable[0]
            yield (
                f"{len(unreadable):,} of {_count(len(looked_at), 'label')} looked at that the reward {reward} cannot "
                f"read as mathematics (first {first.where}: {first.label[:60]!r}); there only the same text is right."
            )
        words = [sample for sample in looked_at if sample not in unreadable and only_words(sample.label)]
        if words:
            yield (
                f"{len(words):,} of {_count(len(looked_at), 'label')} looked at that are words (first "
                f"{words[0].where}: {words[0].label[:60]!r}); there only the same words are right."
            )


def _count(number: int, of: str) -> str:
    return f"{number:,} {of}" if number == 1 else f"{number:,} {of}s"


def loses_text(tokenizer: "PreTrainedTokenizerBase", text: str, tokens: list[int]) -> bool:
    """Whether a tenth or more of a text's letters are missing from its tokens. Tokenizers may change spaces and
    accents."""
    there = Counter(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
    letters = [character for character in text if not character.isspace()]
    return sum((Counter(letters) - there).values()) > len(letters) / 10


def tokenizer_of(args: NestedFlags) -> Any:
    """The actor's tokenizer, checked, with a chat template if one is needed."""
    model = args.actor.model_name_or_path
    tokenizer = load_tokenizer(MODEL_FLAG, model, args.actor.trust_remote_code, not args.data.disable_fast_tokenizer)
    if args.data.apply_chat_template:
        check_chat_template(MODEL_FLAG, tokenizer, model, "--data.apply_chat_template")
    return tokenizer


def render(prompt_format: PromptFormat, source: Source, sample: Sample) -> str:
    """A row's prompt as text; a chat template's error is reported as an error in the row."""
    try:
        return prompt_format.render(sample.prompt)
    except Exception as error:  # templates may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            source.flag,
            f"{source.place}, {sample.where}: the model's chat template refuses it ({reason}).",
            "Correct the messages, or the template.",
        ) from None
