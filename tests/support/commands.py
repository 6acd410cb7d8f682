"""Fixtures of tests that run every command up to the point where a run would start."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_models import make_model

from openrlhf_sfpo.cli import compare, doctor, plan, train
from openrlhf_sfpo.cli import flags as flags_module
from openrlhf_sfpo.doctor.finding import Finding
from openrlhf_sfpo.runs import data_check
from openrlhf_sfpo.tasks.tokenizers import load_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Flags, by name, of a run that every check accepts; it has sixteen prompts."""
    root = tmp_path_factory.mktemp("accepted")
    data = root / "data.jsonl"
    rows = [{"input": f"{n} + 1", "label": str(n + 1), "datasource": "sums"} for n in range(16)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {
        # A head size that vLLM's CPU kernels support.
        "actor.model_name_or_path": str(make_model(root / "model", "llama", hidden_size=128)),
        "actor.num_gpus_per_node": 2,
        "vllm.num_engines": 1,
        "data.prompt_dataset": str(data),
        "data.label_key": "label",
        "data.max_len": 64,
        "reward.remote_url": "last_integer",
        "rollout.n_samples_per_prompt": 4,
        "rollout.batch_size": 8,
        "run.dir": str(root / "run"),
    }


@pytest.fixture(scope="module")
def parsers_are_built_once() -> Any:
    """Otherwise OpenRLHF's source would be read for each command."""
    parser = flags_module.build_parser()
    patch = pytest.MonkeyPatch()
    patch.setattr(flags_module, "build_parser", lambda: parser)
    yield
    patch.undo()


loaded_once = functools.cache(load_tokenizer)


class Reached(Exception):
    """Raised where the run would start."""


@pytest.fixture
def commands(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Callable[[list[str]], int]]:
    """Each command, with the base's flags and further arguments; what follows the checks is left out."""

    def reached(*args: Any, **kwargs: Any) -> int:
        raise Reached

    monkeypatch.setattr(train, "_run", reached)
    monkeypatch.setattr(data_check, "load_tokenizer", loaded_once)
    monkeypatch.setattr(compare, "_compare", reached)
    monkeypatch.setattr(doctor, "examine", lambda args: [] if args is None else [Finding("machine", "ok", "")])
    words = [f"--{name}={value}" for name, value in base.items()]

    def trains(more: list[str]) -> int:
        try:
            return train.main([*words, *more])
        except Reached:
            return 0

    def compares(more: list[str]) -> int:
        config = tmp_path / "comparison.yaml"
        settings = {name: value for name, value in base.items() if name != "run.dir"}
        file = [word.partition("=")[2] for word in more if word.startswith("--config=")]
        if file:  # a comparison takes settings from a file as its base
            settings |= yaml.load(Path(file[0]).read_text(encoding="utf-8"), yaml.BaseLoader)
        config.write_text(yaml.safe_dump({"base": settings, "variants": {"one": {"train.num_episodes": 1}}}))
        changes = [part for word in more if not word.startswith("--config=") for part in ("--set", set_word(word))]
        try:
            return compare.main([str(config), "--out", str(tmp_path / "out"), *changes])
        except Reached:
            return 0

    return {
        "train": trains,
        "dry-run": lambda more: train.main([*words, "--dry-run", *more]),
        "doctor": lambda more: doctor.main([*words, *more]),
        "plan": lambda more: plan.main([base["actor.model_name_or_path"], *words, *more]),
        "compare": compares,
    }


def set_word(word: str) -> str:
    """A flag as `compare --set` takes it."""
    name, equals, value = word.removeprefix("--").partition("=")
    if not equals:
        return f"{name.removeprefix('no-')}={'false' if name.startswith('no-') else 'true'}"
    return f"{name}={value}"
