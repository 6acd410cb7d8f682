"""Small random models of every supported family, and samples for them."""

import string
from pathlib import Path
from typing import Any

import torch
import transformers

SHAPES: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 131,  # prime: every tensor-parallel size needs padding
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def make_model(path: Path, family: str, tied: bool = False, seed: int = 0, **overrides: Any) -> Path:
    """Save a random fp32 model of the family (biases and norm weights are random too) and return its directory."""
    torch.manual_seed(seed)
    settings = {**SHAPES, "tie_word_embeddings": tied, **overrides}
    if family == "qwen3":
        settings.setdefault("head_dim", 24)  # deliberately not hidden_size / heads
    if family == "mistral":
        settings.setdefault("sliding_window", None)
    name = CLASSES[family]
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.float().save_pretrained(path)
    make_tokenizer(path)
    return path


def make_tokenizer(path: Path, words: str = "", start: str | None = None, **settings: Any) -> Any:
    """Save a tokenizer of single characters and return it.

    Args:
        path: the model directory.
        words: characters besides digits, letters and those of sums.
        start: a start token that it puts before every text, as Llama's does.
        settings: further settings of tokenizer_config.json.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["<pad>", start or "<s>", "</s>"]
    characters = sorted(set(string.digits + string.ascii_letters + " +-=?.:,\n\\{}()$" + words))
    vocabulary = {token: number for number, token in enumerate([*special, *characters])}
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    model.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    model.decoder = decoders.Fuse()
    if start:
        model.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, vocabulary[start])]
        )
    given = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": start, **settings}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=model, **given)
    tokenizer.save_pretrained(path)
    return tokenizer


def make_samples(count: int, seed: int = 0, vocab: int = SHAPES["vocab_size"], longest: int = 24) -> list[Any]:
    """Samples of uneven length with a prompt, a response and random advantages."""
    from openrlhf_sfpo.megatron.data.batching import Sample

    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(count):
        length = int(torch.randint(6, longest, (), generator=generator))
        prompt = int(torch.randint(2, length - 2, (), generator=generator))
        mask = torch.zeros(length - 1, dtype=torch.bool)
        mask[prompt - 1 :] = True
        advantage = float(torch.randn((), generator=generator))
        tokens = torch.randint(3, vocab, (length,), generator=generator)
        samples.append(Sample(tokens, mask, advantages=torch.full((length - 1,), advantage) * mask))
    return samples


def with_tokenizer(path: Path) -> str:
    """Add a tokenizer to a tiny model's directory, because OpenRLHF's actor loads one."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({str(number): number for number in range(131)}, unk_token="3"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="2").save_pretrained(path)
    return str(path)
