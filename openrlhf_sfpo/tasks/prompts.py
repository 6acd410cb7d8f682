"""From a row's prompt to the text that the model continues: the one place for training, dry run and evaluation.

A prompt is text or a chat (a list of messages with role and content). A template goes around text, the tokenizer's
chat template around text or chat. The rendered text is encoded without special tokens, as OpenRLHF does it, so that
whatever starts a sequence is part of the text.
"""

import copy
import re
from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING, Any

from openrlhf_sfpo.system.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = str | list[dict[str, Any]]
# Names that may stand for the prompt, besides {} and {0}.
_NAMES = ("prompt", "input", "problem", "question", "query")
# LaTeX commands whose braces are theirs: \boxed{} is no place for a prompt. What follows all of their braces may be.
_LATEX = re.compile(
    r"\\(?:boxed|fbox|framebox|mbox|text|textbf|textit|textrm|emph|mathrm|mathbf|mathbb|mathcal|operatorname|underline|"
    r"overline|sqrt|begin|end|(?:[dt]?frac|binom)(?:\s*\{[^{}]*\})?)\s*(?:\[[^\]]*\]\s*)?$"
)
NEEDS_CHAT_TEMPLATE = "the prompt is a chat (a list of messages), which needs the model's chat template"
TAKES_NO_TEMPLATE = "the prompt is a chat (a list of messages), and the template goes around text"
# A chat that went through a CSV file or str() is text that looks like this.
_CHAT_AS_TEXT = re.compile(r"\s*\[\s*\{\s*['\"](?:role|content)['\"]\s*:")


@dataclass(frozen=True)
class Template:
    """A text with one place for the prompt.

    Attributes:
        before, after: the text around the place, as it is meant (without doubled braces).
    """

    before: str
    after: str

    @classmethod
    def parse(cls, flag: str, text: str) -> "Template":
        """Find the place in a template.

        The place is `{}`, `{0}` or a name such as `{prompt}`. Braces that LaTeX commands take, as in `\\boxed{}`, stay
        as they are. Where the template as a whole is a valid format string with one place, doubled braces stand for
        single ones; otherwise every other brace stands for itself.

        Raises:
            UsageError: there is no place, or more than one.
        """
        formatted = _as_format_string(text)
        if formatted is not None:
            return formatted
        places = _places(text)
        if len(places) == 1:
            start, end = places[0]
            return cls(text[:start], text[end:])
        problem = "has no place for the prompt" if not places else f"has {len(places)} places for the prompt"
        raise UsageError(flag, f"is {text!r}, which {problem}.", "Put {} where the problem goes.")

    def __call__(self, prompt: str) -> str:
        return f"{self.before}{prompt}{self.after}"

    def for_format(self) -> str:
        """The same template for `str.format`, as OpenRLHF applies it."""
        before, after = (part.replace("{", "{{").replace("}", "}}") for part in (self.before, self.after))
        return f"{before}{{}}{after}"


def _as_format_string(text: str) -> Template | None:
    """The template that `str.format` sees, if it sees exactly one place that is not inside a LaTeX command."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        return None
    fields = [index for index, (_, name, _, _) in enumerate(parts) if name is not None]
    if len(fields) != 1:
        return None
    place = fields[0]
    literal, name, spec, conversion = parts[place]
    before = "".join(part[0] for part in parts[:place]) + literal
    plain = name in ("", "0", *_NAMES) and spec in ("", "s") and conversion in (None, "s")
    if not plain or _LATEX.search(before):
        return None
    return Template(before, "".join(part[0] for part in parts[place + 1 :]))


def _places(text: str) -> list[tuple[int, int]]:
    """Start and end of what may be the prompt's place, where braces otherwise stand for themselves."""
    place = rf"\{{(?:0|{'|'.join(_NAMES)})?\}}"
    found = re.finditer(rf"(?<!\{{){place}|{place}(?!\}})", text)  # {{}} is none
    return [match.span() for match in found if not _LATEX.search(text[: match.start()])]


@dataclass(frozen=True)
class PromptFormat:
    """How prompts become text.

    Attributes:
        template: goes around prompts that are text.
        chat: apply the tokenizer's chat template.
        tokenizer: the model's.
    """

    template: Template | None
    chat: bool
    tokenizer: Any

    def render(self, prompt: Prompt) -> str:
        """The text that the model continues.

        A tokenizer that begins texts with a start token by itself gets it here, unless the text has it already:
        prompts are encoded without special tokens.

        Args:
            prompt: checked by `prompt_problem`.
        """
        if isinstance(prompt, str):
            text = self.template(prompt) if self.template else prompt
            if not self.chat:
                return with_start(self.tokenizer, text)
            prompt = [{"role": "user", "content": text}]
        # Parquet gives every message the keys of all of them, and templates ask for keys, not for values.
        messages = [{key: value for key, value in copy.deepcopy(m).items() if value is not None} for m in prompt]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The token ids of a rendered prompt, as OpenRLHF's engines encode it."""
    return tokenizer(text=text, add_special_tokens=False)["input_ids"]


def with_start(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """`text`, with the tokenizer's start token before it if the tokenizer would put it there and it is not there."""
    start = tokenizer.bos_token
    if start is None or text.startswith(start):
        return text
    by_itself = tokenizer(text="")["input_ids"][:1]  # whatever the text
    return start + text if by_itself == [tokenizer.bos_token_id] else text


def prompt_problem(prompt: object, chat: bool, template: bool) -> tuple[str, str] | None:
    """What is wrong with a row's prompt, and the fix (none where it is a flag's); None if it can be rendered.

    Args:
        prompt: the row's value.
        chat: the chat template is applied.
        template: a template goes around the prompt.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            return "the prompt is empty", "Remove the row."
        if _CHAT_AS_TEXT.match(prompt):
            return "the prompt is a chat written as text", "Give it as a list of messages (in JSONL or parquet)."
        return None if _is_unicode(prompt) else ("the prompt holds half a surrogate pair", "Write the row again.")
    if not isinstance(prompt, list):
        return f"the prompt is {type_name(prompt)}", "A prompt is text, or a list of chat messages."
    if not prompt or not all(isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in prompt):
        return "the prompt is a list, but not of chat messages", "Each message needs 'role' and 'content'."
    if not all(isinstance(m["content"], str | list) or m.get("tool_calls") for m in prompt):
        return "a chat message has no text", "Give every message its 'content' as text."
    if not chat:
        return NEEDS_CHAT_TEMPLATE, ""
    if template:
        return TAKES_NO_TEMPLATE, ""
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def type_name(value: object) -> str:
    """A JSON value's type for an error message."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", dict: "an object"}
    return names.get(type(value), "a list" if isinstance(value, list) else f"a {type(value).__name__}")
