"""The response alone, whatever tokenizer and engine made of prompt and response."""

import unicodedata
from types import SimpleNamespace
from typing import Any

import pytest
from text_tokenizers import QWEN, ids, tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from openrlhf_sfpo.tasks.responses import ResponseDecoder, ended_by_token, response_text
from openrlhf_sfpo.tasks.rewards import BUILTIN

BOXED = "Example: \\boxed{4} Now:"
CAFE = unicodedata.normalize("NFD", "Le café ouvre à 7 h. Réponse dans \\boxed{}.")


@pytest.mark.parametrize(
    ("query", "prompt", "response"),
    [
        (f"{BOXED} no", BOXED, "no"),
        ("4", "", "4"),
        (BOXED, BOXED, ""),
        # what a tokenizer puts before the prompt
        (f"<s>{BOXED} no", BOXED, "no"),
        (f"<s> {BOXED} no", BOXED, "no"),
        (f"<|begin_of_text|>{BOXED} no", BOXED, "no"),
        (f"<a start of its own>{BOXED} no", BOXED, "no"),
        ("<s><s>[INST] q [/INST] a</s>", "<s>[INST] q [/INST]", "a"),
        # what it makes of the prompt
        (unicodedata.normalize("NFC", CAFE) + " Je ne sais pas.", CAFE, "Je ne sais pas."),
        (CAFE + " Je ne sais pas.", unicodedata.normalize("NFC", CAFE), "Je ne sais pas."),
        (f"<s>{BOXED.lower()} no", BOXED, "no"),
        ("[CLS] le cafe : no", "Le café :", "no"),
        (unicodedata.normalize("NFD", "Le café") + " no", "Le café", "no"),
        ("Hello, world! no", "Hello , world !", "no"),
        ("user\nhi\nassistant\n4", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "4"),
        # a prompt that is too long loses its start
        ((BOXED * 20)[101:] + " no", BOXED * 20, "no"),
        ("<s>" + (BOXED * 20)[101:] + " no", BOXED * 20, "no"),
        # the end
        ("P4<|im_end|>", "P", "4"),
        ("P4<|im_end|>\n<|endoftext|>", "P", "4"),
        ("P4<\uff5cend\u2581of\u2581sentence\uff5c>", "P", "4"),
        ("P4<|eot_id|>", "P", "4"),
        ("P4<end_of_turn>\n<eos>", "P", "4"),
        ("P4</s><pad><pad>", "P", "4"),
        ("P\\boxed{0<|x|>1}", "P", "\\boxed{0<|x|>1}"),
        ("Pwrite <eos> and </s> in XML", "P", "write <eos> and </s> in XML"),
    ],
)
def test_the_response_in_a_query(query: str, prompt: str, response: str) -> None:
    assert response_text(query, prompt) == response


def test_a_query_without_its_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="does not begin with its prompt"):
        response_text("the answer is 4", "What is 2 + 2?")
    with pytest.raises(ValueError, match="does not begin with its prompt"):  # the prompt ends within a ligature
        response_text("x" * 50 + "\ufb01 rest", "x" * 100 + "f")


@pytest.mark.parametrize("query", [f"<s>{BOXED} no", f"<bos>{BOXED} no", BOXED[2:] + " no"])
def test_a_box_in_the_prompt_is_not_graded(query: str) -> None:
    assert BUILTIN["math_boxed"]([query], [BOXED], ["4"])["rewards"] == [0.0]


@pytest.mark.parametrize(
    "ending", ["<|im_end|>", "<eos>", "</s>", "<|eot_id|>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|endoftext|>"]
)
@pytest.mark.parametrize("reward", ["exact", "last_integer"])
def test_stop_tokens_are_not_graded(reward: str, ending: str) -> None:
    assert BUILTIN[reward]([f"P4{ending}"], ["P"], ["4"])["rewards"] == [1.0]


@pytest.mark.parametrize("cut", [0, 30], ids=["whole prompt", "cut prompt"])
def test_tokens_of_the_response_alone_are_decoded(cut: int) -> None:
    one = tokenizer(**QWEN)
    response = Decoded(one)(CAFE, " Je <|x|> ne sais pas.<|im_end|>", ended=True, cut=cut)
    assert response.text == " Je <|x|> ne sais pas."
    assert response.raw == " Je <|x|> ne sais pas.<|im_end|>"


class Decoded:
    """A `ResponseDecoder` that takes text."""

    def __init__(self, one: Any) -> None:
        self._tokenizer, self._decode = one, ResponseDecoder(one)

    def __call__(self, prompt: str, response: str, ended: bool, cut: int = 0) -> Any:
        return self._decode(ids(self._tokenizer, prompt)[cut:], ids(self._tokenizer, response), ended)


@pytest.mark.parametrize(
    ("response", "ended", "text"),
    [
        ("4<|im_end|>", True, "4"),
        ("4<eos>", False, "4<eos>"),  # written, not the token
        ("<answer>4</answer><|im_end|>", True, "<answer>4</answer>"),  # special tokens with a meaning
        ("4<|im_start|>user", False, "4user"),
        ("4!", True, "4"),  # a stop token that only the engine knows
        ("", False, ""),
    ],
)
def test_control_tokens_are_removed_and_words_stay(response: str, ended: bool, text: str) -> None:
    one = tokenizer(**QWEN, extra_special_tokens=["<|im_start|>", "<answer>", "</answer>"])
    assert Decoded(one)("Q:", response, ended).text == text


@pytest.mark.parametrize(("reason", "text", "ending"), [("stop", " 4", "<|im_end|>"), ("length", " 4", "")])
def test_responses_of_an_evaluation(reason: str, text: str, ending: str) -> None:
    from openrlhf_sfpo.rollout.sampling import Response, _response

    one = tokenizer(**QWEN)
    tokens = ids(one, text + ending)
    output = SimpleNamespace(finish_reason=reason, stop_reason=None, token_ids=tokens)
    found = _response(ResponseDecoder(one), ids(one, "2+2="), output)
    assert found == Response(text, len(tokens), reason == "length", ending)


def test_the_first_space_of_a_response_stays() -> None:
    """Tokenizers such as Llama 2's leave out the first space of what they decode."""
    words = ["<unk>", "<s>", "</s>", "\u2581Q:", "\u2581four", "\u2581is", "\u25814"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    one = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    prompt, response = ids(one, "Q:"), [*ids(one, "four is 4"), one.eos_token_id]
    assert one.decode(response[:-1]) == "four is 4"
    assert ResponseDecoder(one)([one.bos_token_id, *prompt], response, ended=True).text == " four is 4"


def test_the_response_of_a_recorded_sequence() -> None:
    one = tokenizer(**QWEN)
    prompt, response = ids(one, "4 ="), ids(one, " 4<|im_end|>")
    mask = [0] * (len(prompt) - 1) + [1] * len(response)
    assert ResponseDecoder(one).of_sequence(prompt + response, mask) == " 4<|im_end|>"
    assert ResponseDecoder(one).of_sequence(prompt, [0] * (len(prompt) - 1)) == ""


def test_a_character_that_begins_in_the_prompt() -> None:
    one = tokenizer(**QWEN)
    first, *rest = ids(one, "é")
    assert ResponseDecoder(one)([first], [*rest, *ids(one, "4")], False).text.endswith("4")


@pytest.mark.parametrize(
    ("finish", "stop", "tokens", "ended"),
    [
        ("stop", None, [1], True),
        ("stop", 151643, [1], True),
        ("stop", "</answer>", [1], False),
        ("length", None, [1], False),
        ("stop", None, [], False),
    ],
)
def test_how_a_response_ended(finish: str, stop: Any, tokens: list[int], ended: bool) -> None:
    output = SimpleNamespace(finish_reason=finish, stop_reason=stop, token_ids=tokens)
    assert ended_by_token(output) == ended
