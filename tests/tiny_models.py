"""Small random models of every supported family, and samples for them."""

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
        settings.setdefault("head_dim", 24)  # on purpose not hidden_size / heads
    if family == "mistral":
        settings.setdefault("sliding_window", None)
    name = CLASSES[family]
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.float().save_pretrained(path)
    (path / "tokenizer.json").write_text("{}")
    return path


def make_samples(count: int, seed: int = 0, vocab: int = SHAPES["vocab_size"], longest: int = 24) -> list[Any]:
    """Samples of uneven length with a prompt, a response and random advantages."""
    from openrlhf_sfpo.megatron.batching import Sample

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
