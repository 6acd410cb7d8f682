"""The config.json of the models in examples/: public facts about their architectures, numbers only."""

import json
from pathlib import Path
from typing import Any

_QWEN2 = {"model_type": "qwen2", "hidden_act": "silu", "use_sliding_window": False, "attention_dropout": 0.0}


def _qwen2(
    layers: int, hidden: int, ffn: int, heads: int, kv_heads: int, vocab: int, tied: bool, positions: int, **more: Any
) -> dict[str, Any]:
    shapes = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    }
    return {**_QWEN2, "architectures": ["Qwen2ForCausalLM"], **shapes, **more}


# Directory name, as in the `hf download` of examples/README.md -> config.json
CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen2.5-Math-1.5B": _qwen2(28, 1536, 8960, 12, 2, 151936, True, 4096),
    "Qwen2.5-Math-7B": _qwen2(28, 3584, 18944, 28, 4, 152064, False, 4096),
    "DeepSeek-R1-Distill-Qwen-1.5B": _qwen2(28, 1536, 8960, 12, 2, 151936, False, 131072),
    "DeepSeek-R1-Distill-Qwen-7B": _qwen2(28, 3584, 18944, 28, 4, 152064, False, 131072),
    "Qwen2.5-32B": _qwen2(64, 5120, 27648, 40, 8, 152064, False, 131072, rms_norm_eps=1e-5, rope_theta=1e6),
    "Qwen2.5-72B": _qwen2(80, 8192, 29568, 64, 8, 152064, False, 131072, rms_norm_eps=1e-5, rope_theta=1e6),
    "Qwen3-4B-Base": {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_act": "silu",
        "attention_bias": False,
        "num_hidden_layers": 36,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
    },
    "Llama-3.1-8B": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
}
# Parameters in the safetensors files of the published models.
PARAMETERS = {
    "Qwen2.5-Math-1.5B": 1_543_714_304,
    "Qwen2.5-Math-7B": 7_615_616_512,
    "DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "DeepSeek-R1-Distill-Qwen-7B": 7_615_616_512,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen2.5-72B": 72_706_203_648,
    "Qwen3-4B-Base": 4_022_468_096,
    "Llama-3.1-8B": 8_030_261_248,
}


def make_config(directory: Path, name: str) -> Path:
    """Write `directory`/`name`/config.json and return the model directory, which holds nothing else."""
    model = directory / name
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(CONFIGS[name]))
    return model
