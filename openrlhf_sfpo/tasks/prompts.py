"""Converts a row's prompt to the text that the model continues, for training, dry run and evaluation.

A prompt is text or a chat (a list of messages with role and content). A template is applied to text, the tokenizer's
chat template to text or chat. The rendered text is encoded without special tokens, as in OpenRLHF, so it includes any
start token.
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
# Names of the placeholder for the prompt, in addition to {} and {0}.
_NAMES = ("prompt", "input", "problem", "question", "query")
# LaTeX commands that take braces: \boxed{} is not a placeholder. Braces after their arguments may be one.
_LATEX = re.compile(
    r"\\(?:boxed|fbox|framebox|mbox|text|textbf|textit|textrm|emph|mathrm|mathbf|mathbb|mathcal|operatorname|underline|"
    r"overline|sqrt|begin|end|(?:[dt]?frac|binom)(?:\s*\{[^{}]*\})?)\s*(?:\[[^\]]*\]\s*)?$"
)
NEEDS_CHAT_TEMPLATE = "the prompt is a chat (a list of messages), which needs the model's chat template"
TAKES_NO_TEMPLATE = "the prompt is a chat (a list of messages), and the template goes around text"
# Text that looks like a chat written by str(), for example through a CSV file.
_CHAT_AS_TEXT = re.compile(r"\s*\[\s*\{\s*['\"](?:role|content)['\"]\s*:")


@dataclass(frozen=True)
class Template:
    """A text with one placeholder for the prompt.

    Attributes:
        before, after: the text around the placeholder, with doubled braces already resolved.
    """

    before: str
    after: str

    @classmethod
    def parse(cls, flag: str, text: str) -> "Template":
        """Find the placeholder in a template.

        The placeholder is `{}`, `{0}` or a name such as `{prompt}`. Braces that LaTeX commands take, as in `\\boxed{}`,
        are kept. If the whole template is a valid format string with one placeholder, doubled braces mean single ones;
        otherwise every other brace means itself.

        Raises:
            UsageError: there is no placeholder, or more than one.
        """
        formatted = _as_format_string(text)
        if formatted is not None:
            return formatted
        places = _places(text)
        if len(places) == 1:
            start, end = places[0]
            return cls(text[:start], text[end:])
        problem = (
            "has no placeholder for the prompt" if not places else f"has {len(places)} placeholders for the prompt"
        )
        raise UsageError(flag, f"is {text!r}, which {problem}.", "Put {} where the problem goes.")

    def __call__(self, prompt: str) -> str:
        return f"{self.before}{prompt}{self.after}"

    def for_format(self) -> str:
        """The same template for `str.format`, as OpenRLHF applies it."""
        before, after = (part.replace("{", "{{").replace("}", "}}") for part in (self.before, self.after))
        return f"{before}{{}}{after}"


def _as_format_string(text: str) -> Template | None:
    """The template as `str.format` reads it, if it has exactly one placeholder that is not inside a LaTeX command."""
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
    """Start and end of possible placeholders, where other braces mean themselves."""
    place = rf"\{{(?:0|{'|'.join(_NAMES)})?\}}"
    found = re.finditer(rf"(?<!\{{){place}|{place}(?!\}})", text)  # {{}} is not one
    return [match.span() for match in found if not _LATEX.search(text[: match.start()])]


@dataclass(frozen=True)
class PromptFormat:
    """The conversion of prompts to text.

    Attributes:
        template: applied to prompts that are text.
        chat: whether to apply the tokenizer's chat template.
        tokenizer: the model's.
    """

    template: Template | None
    chat: bool
    tokenizer: Any

    def render(self, prompt: Prompt) -> str:
        """The text that the model continues.

        If the tokenizer itself would begin texts with a start token, it is added here unless the text already has it:
        prompts are encoded without special tokens.

        Args:
            prompt: checked by `prompt_problem`.
        """
        if isinstance(prompt, str):
            text = self.template(prompt) if self.template else prompt
            if not self.chat:
                return with_start(self.tokenizer, text)
            prompt = [{"role": "user", "content": text}]
        # Parquet gives every message the keys of all messages, and templates test for keys, not for values.
        messages = [{key: value for key, value in copy.deepcopy(m).items() if value is not None} for m in prompt]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """The token ids of a rendered prompt, as OpenRLHF's engines encode it."""
    return tokenizer(text=text, add_special_tokens=False)["input_ids"]


def with_start(tokenizer: "PreTrainedTokenizerBase", text: str) -> str:
    """`text`, preceded by the tokenizer's start token if the tokenizer would add it and the text lacks it."""
    start = tokenizer.bos_token
    if start is None or text.startswith(start):
        return text
    by_itself = tokenizer(text="")["input_ids"][:1]  # for any text
    return start + text if by_itself == [tokenizer.bos_token_id] else text


def prompt_problem(prompt: object, chat: bool, template: bool) -> tuple[str, str] | None:
    """The problem with a row's prompt, and the fix (empty if a flag must change); None if the prompt can be rendered.

    Args:
        prompt: the row's value.
        chat: whether the chat template is applied.
        template: whether a template is applied to the prompt.
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
