"""Extracts the response to grade: from its tokens if known, else from OpenRLHF's `query`."""

import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# The text of tokens that end or pad a response in popular model families.
_END = (
    r"<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|eom_id|eot|eom|EOT|end|eos|pad|return|call|endofprompt|"
    r"endofturn|end_of_turn|end_of_sentence|end_of_role|endofresponse|fim_pad|finetune_right_pad_id|END_OF_TURN_TOKEN|"
    r"user|observation|assistant_end|dummy_\d+)\|>"
    r"|<\uff5c(?:end\u2581of\u2581sentence|\u2581pad\u2581|User)\uff5c>|\[\|endofturn\|\]|\[(?:EOS|PAD|SEP)\]"
    r"|</s>|<eos>|<pad>|<end_of_turn>|<turn\|>|<EOS_TOKEN>|<PAD>|<eoa>|<seed:eos>|<seed:pad>|<\|endofmessage\|>"
)
_AT_END = re.compile(rf"(?:{_END})\Z")
_LONGEST_END = 64
_CONTROL = re.compile(_END)
_START = re.compile(
    r"\s*(?:<s>|<bos>|<BOS_TOKEN>|<seed:bos>|\[BOS\]|\[CLS\]|\[gMASK\]|<sop>|<\uff5cbegin\u2581of\u2581sentence\uff5c>"
    r"|<\|(?:begin_of_text|endoftext|startoftext|bos|begin_of_sentence|im_start|start|pad|eos)\|>|<pad>|<eos>|</s>)"
)
# A prompt truncated from the left is found if at least this many of its characters remain, without white space.
_MIN_REST = 8
# Text that a tokenizer adds before a prompt is shorter than this.
_MAX_START = 64
_TAG = re.compile(r"</?[A-Za-z][\w-]*/?>")
_NAMED = ("eos", "bos", "pad", "unk", "sep", "cls", "mask")
# This many of the prompt's tokens are decoded with the response, which could otherwise lose its first space.
_CONTEXT = 16


def response_text(query: str, prompt: str) -> str:
    """The response in OpenRLHF's `query`, which is prompt and response decoded, without the tokens that end it.

    The prompt is found regardless of what its tokenizer changed: an added start token, Unicode normalization, spaces,
    case, or truncation from the left.

    Raises:
        ValueError: the query does not begin with the prompt, so the start of the response is unknown.
    """
    text = query[_prompt_end(query, prompt) :].strip()
    while found := _AT_END.search(text, max(0, len(text) - _LONGEST_END)):
        text = text[: found.start()].rstrip()
    return text


def _prompt_end(query: str, prompt: str) -> int:
    """The position in the query where the prompt ends."""
    if query.startswith(prompt):
        return len(prompt)
    starts = [0]
    while found := _START.match(query, starts[-1]):
        starts.append(found.end())
    for start in starts:
        if query.startswith(prompt, start):
            return start + len(prompt)
    if 0 < (place := query.find(prompt)) <= _MAX_START:
        return place + len(prompt)
    wanted = "".join(map(_folded, prompt))
    bare = "".join(map(_folded, _CONTROL.sub("", prompt)))  # if the query was decoded without special tokens
    for start, text in itertools.product(starts, (wanted, bare)):
        end = _folded_end(query, start, text)
        if end is not None:
            return end
    for start in starts:
        rest = _cut_rest(query[start:], wanted)
        end = _folded_end(query, start, rest) if len(rest) >= _MIN_REST else None
        if end is not None:
            return end
    raise ValueError(
        f"the query {query[:60]!r} does not begin with its prompt {prompt[:60]!r}, so that the response cannot be told "
        "from the prompt. A query is the prompt followed by the response."
    )


def _folded(character: str) -> str:
    """A character without properties that tokenizers may change: normalization, accents, case, white space."""
    parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(part for part in parts if not part.isspace() and not unicodedata.combining(part))


def _folded_end(query: str, start: int, wanted: str) -> int | None:
    """The end of the text at `start` that folds to `wanted`; None if it is not there."""
    matched = 0
    for place in range(start, len(query)):
        if matched == len(wanted) and not unicodedata.combining(query[place]):
            return place
        folded = _folded(query[place])
        if not wanted.startswith(folded, matched):
            return None
        matched += len(folded)
    return len(query) if matched == len(wanted) else None


def _cut_rest(query: str, wanted: str) -> str:
    """The longest end of `wanted` with which the folded query begins (Knuth, Morris and Pratt's prefix function)."""
    begin = "".join(map(_folded, query[: 2 * len(wanted) + _MAX_START]))[: len(wanted)]
    text = [*begin, None, *wanted]
    border = [0] * len(text)
    for index in range(1, len(text)):
        length = border[index - 1]
        while length and text[index] != text[length]:
            length = border[length - 1]
        border[index] = length + (text[index] == text[length])
    return wanted[len(wanted) - border[-1] :] if border[-1] else ""


@dataclass(frozen=True)
class Response:
    """A response as text.

    Attributes:
        text: the text to grade: without the token that ended it and other control tokens.
        raw: the complete text, as OpenRLHF decodes it.
    """

    text: str
    raw: str


class ResponseDecoder:
    """Decodes a response from its own tokens, so that no part of the prompt can be taken for it.

    Args:
        tokenizer: the model's tokenizer, or the processor that contains it.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        named = {getattr(tokenizer, f"{name}_token_id", None) for name in _NAMED} - {None}
        added = getattr(tokenizer, "added_tokens_decoder", None) or {}
        # Tags such as <answer> are often special tokens and are kept; control tokens such as <|im_start|> are not.
        special = {number for number, token in added.items() if token.special and not _TAG.fullmatch(token.content)}
        self._control = named | special
        self._endings: dict[int, str] = {}

    def __call__(self, prompt: Sequence[int], response: Sequence[int], ended: bool) -> Response:
        """Decode a response.

        Args:
            prompt: the token ids before it.
            response: its token ids.
            ended: whether its last token is an end token rather than part of it.
        """
        context, tokens = list(prompt[-_CONTEXT:]), list(response)
        raw = self._after(context, tokens)
        kept = [token for token in (tokens[:-1] if ended else tokens) if token not in self._control]
        if len(kept) == len(tokens):
            return Response(raw, raw)
        ending = self.ending(tokens[-1]) if kept == tokens[:-1] else None
        if ending and raw.endswith(ending):  # the usual case, without decoding twice
            return Response(raw.removesuffix(ending), raw)
        return Response(self._after(context, kept), raw)

    def ending(self, token: int) -> str:
        """An end token, as text."""
        if token not in self._endings:
            self._endings[token] = self._decode([token])
        return self._endings[token]

    def of_sequence(self, tokens: Sequence[int], action_mask: Sequence[int]) -> str:
        """The complete response in a rollout's token ids; `action_mask` is for the tokens after the first."""
        begin = next((place for place, action in enumerate(action_mask, 1) if action), len(tokens))
        return self(tokens[:begin], tokens[begin:], ended=False).raw

    def _after(self, context: list[int], tokens: list[int]) -> str:
        before, whole = self._decode(context), self._decode(context + tokens)
        # The first bytes of a character may be in the prompt.
        return whole[len(before) :] if whole.startswith(before) else self._decode(tokens)

    def _decode(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)  # for several sequences it would be a list
        return text


class Output(Protocol):
    """vLLM's information about the end of a response."""

    finish_reason: str | None
    stop_reason: int | str | None
    token_ids: Sequence[int]


def ended_by_token(output: "Output") -> bool:
    """Whether the last token of a vLLM CompletionOutput is an end token, in any model family."""
    return output.finish_reason == "stop" and not isinstance(output.stop_reason, str) and len(output.token_ids) > 0
