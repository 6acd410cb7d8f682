"""The actor's model against transformers: log-probabilities, round trips, reading only what is needed."""

import json
import math
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from ranks import RankPool
from reference import log_probs_of, old_log_probs
from safetensors.torch import load_file
from tiny_models import CLASSES, make_model, make_samples

LAYOUTS = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 2, 2), (1, 1, 1, 2), (2, 2, 1, 2)]
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
        "rope_theta": 500000.0,
    },
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "rope_theta": 10000.0,
    },
}


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


# Each family once; the other way round with --slow.
ONCE = {"llama": True, "mistral": False, "qwen2": True, "qwen3": False}
MODELS = [
    pytest.param(family, tied, marks=() if ONCE[family] == tied else pytest.mark.slow, id=f"{family}-{name}")
    for family in CLASSES
    for tied, name in ((False, "untied"), (True, "tied"))
]


@pytest.mark.parametrize(("family", "tied"), MODELS)
def test_log_probs_equal_transformers_on_every_layout(ranks: RankPool, tmp_path: Path, family: str, tied: bool) -> None:
    path = str(make_model(tmp_path / "model", family, tied))
    samples = make_samples(9)
    expected = old_log_probs(path, samples)
    for layout in LAYOUTS:
        for ours in ranks.run(jobs.ranks_of(layout), jobs.forward, path, layout, samples):
            assert largest_difference(ours, expected) <= 1e-4, layout


@pytest.mark.parametrize("rope", ROPES)
def test_rope_scaling_equals_transformers(ranks: RankPool, tmp_path: Path, rope: str) -> None:
    path = str(make_model(tmp_path / "model", "llama", rope_parameters=ROPES[rope]))
    samples = make_samples(6, longest=100)
    (ours,) = ranks.run(1, jobs.forward, path, (1, 1, 1), samples)
    assert largest_difference(ours, old_log_probs(path, samples)) <= 1e-4


def test_temperature_divides_the_logits(ranks: RankPool, tmp_path: Path) -> None:
    import reference

    path = str(make_model(tmp_path / "model", "qwen2"))
    samples = make_samples(4)
    model = reference.load(path)
    with torch.no_grad():
        expected = [log_probs_of(model, sample, temperature=0.6)[0] for sample in samples]
    (ours,) = ranks.run(1, jobs.forward, path, (1, 1, 1), samples, timeout=120)
    assert largest_difference(ours, expected) > 0.1  # the temperature makes a difference
    (scaled,) = ranks.run(1, forward_at_temperature, path, samples)
    assert largest_difference(scaled, expected) <= 1e-4


def forward_at_temperature(path: str, samples: list[Any]) -> list[torch.Tensor]:
    return jobs.forward(path, (1, 1, 1), samples, temperature=0.6)


def test_four_pipeline_stages_and_data_parallel_owners(ranks: RankPool, tmp_path: Path) -> None:
    path = str(make_model(tmp_path / "model", "llama"))
    samples = make_samples(11)
    expected = old_log_probs(path, samples)
    for ours in ranks.run(4, jobs.forward, path, (1, 4, 1), samples):
        assert largest_difference(ours, expected) <= 1e-4
    results = ranks.run(4, jobs.forward, path, (1, 2, 1), samples)
    # Ranks 0 and 1 hold one copy of the model and own the first samples; 2 and 3 the rest.
    assert largest_difference(results[0] + results[2], expected) <= 1e-4
    assert largest_difference(results[1] + results[3], expected) <= 1e-4


@pytest.mark.parametrize(("family", "tied"), MODELS)
def test_round_trip_is_bit_identical(ranks: RankPool, tmp_path: Path, family: str, tied: bool) -> None:
    path = make_model(tmp_path / "model", family, tied)
    for dtype in (torch.float32, torch.bfloat16):
        original = {name: tensor.to(dtype) for name, tensor in load_file(path / "model.safetensors").items()}
        for layout in LAYOUTS:
            target = tmp_path / f"out_{dtype}_{layout}"
            ranks.run(jobs.ranks_of(layout), jobs.round_trip, str(path), layout, str(target), dtype)
            written = load_file(target / "model.safetensors")
            assert written.keys() == original.keys()
            assert all(torch.equal(written[name], original[name]) for name in original), layout
            config = json.loads((target / "config.json").read_text())
            assert config["dtype"] == str(dtype).removeprefix("torch.")


def test_an_exported_directory_loads_in_transformers_in_several_shards(
    ranks: RankPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import reference

    from openrlhf_sfpo.checkpoints import hf_writer

    path = make_model(tmp_path / "model", "qwen3")
    monkeypatch.setattr(hf_writer, "_SHARD_BYTES", 40_000)
    original = load_file(path / "model.safetensors")
    target = tmp_path / "sharded"
    target.mkdir()
    (target / "notes.txt").write_text("somebody's own")
    (target / "model.safetensors").write_text("an older model")
    hf_writer.save_model_directory(target, path, iter(original.items()), torch.float32)
    assert len(list(target.glob("*.safetensors"))) > 3
    assert (target / "notes.txt").read_text() == "somebody's own"
    assert not (target / "model.safetensors").exists(), "the index names other files"
    assert not list(tmp_path.glob(".sharded*"))
    loaded = reference.load(str(target))
    assert all(torch.equal(parameter, original[name]) for name, parameter in loaded.named_parameters())
    samples = make_samples(3)
    (ours,) = ranks.run(1, jobs.forward, str(target), (1, 1, 1), samples)
    assert largest_difference(ours, old_log_probs(str(path), samples)) <= 1e-4


def test_the_next_bucket_is_gathered_while_one_is_sent(ranks: RankPool, tmp_path: Path) -> None:
    path = str(make_model(tmp_path / "model", "qwen2", tied=False))
    events = ranks.run(8, stream_with_events, path)[0]
    started = [event for event in events if event.startswith("start")]
    assert len(started) > 4
    for number in range(len(started)):
        # No tensor of a bucket is handed on before the next bucket has been requested.
        last = min(number + 1, len(started) - 1)
        assert events.index(f"start {last}") < events.index(f"tensor of {number}")
        assert f"start {number + 2}" not in events[: events.index(f"tensor of {number}")], "two at a time"


def stream_with_events(path: str) -> list[str]:
    from openrlhf_sfpo.megatron.weights.export import WeightExchange

    actor = jobs.make_actor(path, (2, 2, 1, 2), weight_bucket_bytes=20_000)
    events: list[str] = []
    bucket_of: dict[str, int] = {}
    start = WeightExchange._start

    def noted(self: Any, stage: int, bucket: list[Any], everyone: bool) -> Any:
        number = sum(event.startswith("start") for event in events)
        bucket_of.update({name: number for entry in bucket for name in entry.converter.names})
        events.append(f"start {number}")
        return start(self, stage, bucket, everyone)

    WeightExchange._start = noted
    for name, _ in actor.export():
        events.append(f"tensor of {bucket_of[name]}")
    return events


def test_kernels_are_chosen_by_what_the_machine_has() -> None:
    from openrlhf_sfpo.megatron.model.layers import choose_layers
    from openrlhf_sfpo.megatron.settings import ActorSettings
    from openrlhf_sfpo.system.errors import UsageError

    assert choose_layers(ActorSettings(device="cpu")) == ("local", "sdpa")
    assert choose_layers(ActorSettings(device="cuda", param_dtype=torch.float32)) == ("local", "sdpa")
    for settings, flag, reason in (
        (ActorSettings(layer_spec="te"), "layer_spec", "runs on CUDA only"),
        (ActorSettings(device="cuda", layer_spec="te", fp32_residual=True), "layer_spec", "does not take"),
        (ActorSettings(attention="flash"), "attention", "runs on CUDA only"),
        (
            ActorSettings(device="cuda", attention="flash", param_dtype=torch.float32),
            "attention",
            "takes 16 bits only",
        ),
    ):
        with pytest.raises(UsageError, match=reason) as refused:
            choose_layers(settings)
        assert refused.value.flag == flag


def test_the_flash_attn_stub_is_not_mistaken_for_flash_attn(ranks: RankPool) -> None:
    (chosen,) = ranks.run(1, kernels_on_cuda)
    assert chosen == ("local", "sdpa")


def kernels_on_cuda() -> Any:
    import sys

    from openrlhf_sfpo.megatron.model.layers import choose_layers
    from openrlhf_sfpo.megatron.settings import ActorSettings

    assert "flash_attn" in sys.modules, "as in every worker"
    return choose_layers(ActorSettings(device="cuda"))


def test_transformer_engine_has_norms_in_the_linear_layers_after_them(tmp_path: Path) -> None:
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.model.config import ModelConfig
    from openrlhf_sfpo.megatron.weights.mapping import weight_plan

    model = ModelConfig.from_pretrained(make_model(tmp_path / "model", "qwen3"))
    local, te = (weight_plan(model, Layout(), layers) for layers in ("local", "te"))
    assert [entry.converter for entry in local] == [entry.converter for entry in te]
    renamed = {(a.parameter, b.parameter) for a, b in zip(local, te, strict=True) if a.parameter != b.parameter}
    prefix = "decoder.layers.0"
    assert (
        f"{prefix}.input_layernorm.weight",
        f"{prefix}.self_attention.linear_qkv.layer_norm_weight",
    ) in renamed
    assert (f"{prefix}.pre_mlp_layernorm.weight", f"{prefix}.mlp.linear_fc1.layer_norm_weight") in renamed
    assert len(renamed) == 2 * model.num_layers


def test_a_rank_reads_only_its_part(tmp_path: Path) -> None:
    from openrlhf_sfpo.megatron.layout import Layout
    from openrlhf_sfpo.megatron.model.config import ModelConfig
    from openrlhf_sfpo.megatron.weights.mapping import weight_plan

    path = make_model(tmp_path / "model", "qwen2")
    model = ModelConfig.from_pretrained(path)
    tensors = load_file(path / "model.safetensors")
    layout = Layout(tp=2, pp=2)
    total = sum(tensor.numel() for tensor in tensors.values())
    norms = sum(tensor.numel() for name, tensor in tensors.items() if "norm" in name)
    read = [0, 0]

    def reader(name: str, rows: slice | None, columns: slice | None) -> torch.Tensor:
        part = tensors[name][rows or slice(None)]
        part = part if columns is None else part[:, columns]
        read[rank] += part.numel()
        return part

    for rank in (0, 1):
        for entry in weight_plan(model, layout):
            entry.converter.read(reader, rank, layout.tp)
    assert sum(read) == total + norms  # norms are on both, everything else once
    assert abs(read[0] - read[1]) <= 2 * model.hidden_size  # an odd vocabulary leaves one row more on the first


def test_a_truncated_file_is_named(ranks: RankPool, tmp_path: Path) -> None:
    from openrlhf_sfpo.checkpoints.hf_directory import CheckpointReader
    from openrlhf_sfpo.system.errors import UsageError

    path = make_model(tmp_path / "model", "llama")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UsageError, match=r"model\.safetensors is damaged or truncated"):
        CheckpointReader(path)


def test_a_tensor_of_another_shape_is_named(ranks: RankPool, tmp_path: Path) -> None:
    from ranks import RankFailure

    path = make_model(tmp_path / "model", "llama")
    config = json.loads((path / "config.json").read_text())
    config["intermediate_size"] -= 16  # the file's extra rows would be ignored
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RankFailure, match=r"config\.json asks for.*gate_proj\.weight"):
        ranks.run(1, jobs.forward, str(path), (1, 1, 1), make_samples(1))


def logits_of(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return hidden.double() @ weight.double().t()


def chunked_log_probs(vocab: int, rows: int, chunk: int, dtype: torch.dtype) -> dict[str, Any]:
    """Run the vocabulary-parallel function forward and backward, watching the largest fp32 tensor it makes."""
    import torch.distributed as dist
    from torch.utils._python_dispatch import TorchDispatchMode

    from openrlhf_sfpo.megatron.model.log_probs import log_probs_and_entropy

    class Largest(TorchDispatchMode):
        rows = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            # Logits are [rows, vocabulary]; the (transposed) weight is [16, vocabulary].
            is_matrix = isinstance(out, torch.Tensor) and out.dim() == 2
            if is_matrix and out.shape[1] in (per_rank, len(mine)) and out.shape[0] != 16:
                Largest.rows = max(Largest.rows, out.shape[0])
            return out

    dist.init_process_group("gloo")
    size, rank = dist.get_world_size(), dist.get_rank()
    per_rank = math.ceil(vocab / size)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 16, generator=generator).to(dtype).requires_grad_()
    full = torch.randn(vocab, 16, generator=generator).to(dtype)
    labels = torch.randint(0, vocab, (rows,), generator=generator)
    weights = torch.randn(2, rows, generator=generator)
    local = torch.zeros(per_rank, 16, dtype=dtype)
    mine = full[rank * per_rank : (rank + 1) * per_rank]
    local[: len(mine)] = mine
    local.requires_grad_()
    with Largest():
        log_probs, entropy = log_probs_and_entropy(
            hidden, local, labels, vocab_size=vocab, temperature=0.7, chunk_size=chunk, group=dist.group.WORLD
        )
        (log_probs * weights[0] + entropy * weights[1]).sum().backward()
    reference_hidden = hidden.detach().double().requires_grad_()
    reference_weight = full.double().requires_grad_()
    log_p = torch.log_softmax(reference_hidden @ reference_weight.t() / 0.7, dim=-1)
    expected_log_probs = log_p.gather(1, labels[:, None]).squeeze(1)
    expected_entropy = -(log_p.exp() * log_p).sum(-1)
    (expected_log_probs * weights[0] + expected_entropy * weights[1]).sum().backward()
    part = reference_weight.grad[rank * per_rank : (rank + 1) * per_rank]
    return {
        "values": [
            (log_probs - expected_log_probs).abs().max().item(),
            (entropy - expected_entropy).abs().max().item(),
        ],
        "gradients": [
            ((hidden.grad - reference_hidden.grad).norm() / reference_hidden.grad.norm()).item(),
            ((local.grad[: len(part)] - part).norm() / part.norm()).item(),
        ],
        "padding": local.grad[len(part) :].abs().sum().item(),
        "rows_of_logits": Largest.rows,
    }


@pytest.mark.parametrize("size", [1, 2, 3])
def test_log_probs_and_gradients_in_chunks(ranks: RankPool, size: int) -> None:
    vocab, rows, chunk = 1009, 50, 8
    for result in ranks.run(size, chunked_log_probs, vocab, rows, chunk, torch.float32):
        assert max(result["values"]) < 1e-4
        assert max(result["gradients"]) < 1e-5
        assert result["padding"] == 0.0
        assert result["rows_of_logits"] == chunk


def test_bf16_log_probs_have_no_rounded_logits(ranks: RankPool) -> None:
    for result in ranks.run(2, chunked_log_probs, 1009, 50, 16, torch.bfloat16):
        # The reference is fp64 on the same bf16 inputs: logits rounded to bf16 would be off by 0.03 and more.
        assert max(result["values"]) < 1e-3
        assert max(result["gradients"]) < 1e-2


def renamed_upstream() -> str:
    from megatron.core.tensor_parallel import random

    from openrlhf_sfpo.megatron import cpu

    cpu.install()
    cpu.install()
    original, stream, cpu._installed = random._get_cuda_rng_state, torch.cuda.Stream, False
    del random._get_cuda_rng_state
    torch.cuda.Stream = object
    try:
        cpu.install()
    except ValueError as error:
        assert torch.cuda.Stream is object, "nothing is replaced then"
        return str(error)
    finally:
        random._get_cuda_rng_state, torch.cuda.Stream, cpu._installed = original, stream, True
    return "no error"


def installed_beside_cuda() -> str:
    from openrlhf_sfpo.megatron import cpu

    available, installed, cpu._installed = torch.cuda.is_available, cpu._installed, False
    torch.cuda.is_available = lambda: True
    try:
        cpu.install()
    except RuntimeError as error:
        return str(error)
    finally:
        torch.cuda.is_available, cpu._installed = available, installed
    return "no error"


def test_what_is_replaced_on_cpu_exists_in_this_megatron(ranks: RankPool) -> None:
    (message,) = ranks.run(1, renamed_upstream)
    assert "megatron-core: 0.16.1 is installed" in message
    assert "no megatron.core.tensor_parallel.random._get_cuda_rng_state" in message
    (message,) = ranks.run(1, installed_beside_cuda)
    assert "must not be installed" in message
