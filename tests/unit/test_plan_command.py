"""Plans, and the commands that show them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_configs import CONFIGS, PARAMETERS, make_config
from tiny_models import make_model

from openrlhf_sfpo.cli import plan as plan_command
from openrlhf_sfpo.cli import train
from openrlhf_sfpo.cli.flags import parse
from openrlhf_sfpo.config.namespaces import nested
from openrlhf_sfpo.doctor import resources
from openrlhf_sfpo.megatron.data.batching import plan_micro_batches, plan_train_batches
from openrlhf_sfpo.megatron.layout import Layout
from openrlhf_sfpo.megatron.model.config import ModelConfig
from openrlhf_sfpo.plan import placement, schedule
from openrlhf_sfpo.plan.planner import make_plan
from openrlhf_sfpo.plan.setup import Engines, Setup
from openrlhf_sfpo.plan.suggestion import flags_of, suggestions
from openrlhf_sfpo.plan.sync import checkpoint_bytes
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.units import GIB

# Of the examples' models, one of each size.
PUBLISHED = ("Qwen2.5-Math-7B", "Qwen2.5-32B", "Qwen2.5-72B", "Llama-3.1-8B")


def model_of(name: str) -> ModelConfig:
    return ModelConfig.from_dict(CONFIGS[name])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model directory with DeepSeek-R1-Distill-Qwen-7B's config.json (Qwen2.5-Math-7B's shapes, and 131072 positions)
    and nothing else."""
    return make_config(tmp_path, "DeepSeek-R1-Distill-Qwen-7B")


@pytest.mark.parametrize("name", PUBLISHED)
def test_state_of_published_models(name: str) -> None:
    """18 bytes per parameter, of which 12 are divided by DP; padding adds at most a thousandth."""
    count = PARAMETERS[name]
    assert checkpoint_bytes(Setup(model_of(name))) == 12 * count
    for layout, gpus in ((Layout(), 8), (Layout(tp=4), 8), (Layout(tp=4, pp=4), 64), (Layout(tp=2, pp=2, vpp=2), 16)):
        setup = Setup(model_of(name), layout, gpus=gpus)
        plan = make_plan(setup, 80)
        states = [stage.state for stage in plan.stages]
        assert sum(state.count for state in states) * layout.tp == pytest.approx(count, rel=1e-3)
        for state in states:
            assert state.total == pytest.approx(state.count * (6 + 12 / setup.dp), rel=1e-3)


def test_context_parallel_ranks_share_the_optimizer_and_the_tokens() -> None:
    model = model_of("Qwen2.5-Math-7B")
    plain = make_plan(Setup(model, Layout(tp=2), gpus=8, max_tokens_per_gpu=32768), 80)
    split = make_plan(Setup(model, Layout(tp=2, cp=4), gpus=8, max_tokens_per_gpu=8192), 80)
    assert split.setup.dp == 1
    assert plain.setup.dp == 4
    (before,), (after,) = plain.stages, split.stages
    assert after.state == before.state, "the optimizer's work is divided by DP x CP"
    activations = [next(p for p in one.phases if p.name == "slow pass").items["activations"] for one in (before, after)]
    assert activations[1] == pytest.approx(activations[0] / 4, rel=1e-3)


def test_the_token_budget_of_a_micro_batch_is_per_gpu() -> None:
    """Samples that fit with CP 1: with more, each rank has as many tokens as before, from more samples at a time."""
    model = model_of("Qwen2.5-Math-7B")
    plans = [
        make_plan(Setup(model, Layout(tp=2, cp=cp), gpus=8, max_tokens_per_gpu=8192, max_len=4096), 80)
        for cp in (1, 2, 4)
    ]
    assert [plan.setup.local_tokens for plan in plans] == [8192] * 3
    assert [schedule.micro_batches(plan.setup) for plan in plans] == [16] * 3
    for plan in plans[1:]:
        lengths = [[4096] * (128 // plan.setup.dp)] * plan.setup.dp
        real = plan_micro_batches(lengths, plan_train_batches(lengths, 128), 8192 * plan.setup.layout.cp)
        assert schedule.micro_batches(plan.setup) == len(real[0][0])


@pytest.mark.parametrize(
    ("changes", "copies", "on_gpu"),
    [
        ([], 1, True),
        (["--sfpo.optimizer_state", "restore"], 3, True),
        (["--sfpo.optimizer_state", "interpolate", "--sfpo.snapshot_device", "cpu"], 3, False),
        (["--sfpo.preset", "grpo_k_passes"], 0, False),
        (["--sfpo.k", "0"], 0, False),
        (["--no-sfpo.enable"], 0, False),
    ],
)
def test_the_snapshot_follows_the_flags(
    directory: Path, capsys: Any, changes: list[str], copies: int, on_gpu: bool
) -> None:
    plan = planned(capsys, directory, *changes)
    stage = plan["stages"][0]
    shard = stage["phases"]["slow pass"]["main parameters, fp32"]
    assert stage["phases"].get("fast pass", {}).get("SFPO snapshot", 0) == copies * shard * on_gpu
    assert "SFPO snapshot" not in stage["phases"]["slow pass"]
    pinned = [count for what, count in plan["host"].items() if what.startswith("theta_slow")]
    assert pinned == ([8 * copies * shard] if copies and not on_gpu else [])


@pytest.mark.parametrize(
    ("changes", "fast", "slow", "moments"),
    [
        (["--sfpo.preset", "prepo"], (1, 1), (0, 0), 2),
        (["--sfpo.preset", "prepo", "--sfpo.prepo_retention", "gradient"], (1, 2), (0, 0), 2),
        (["--sfpo.preset", "prepo", "--sfpo.gate", "cosine", "--sfpo.optimizer_state", "restore"], (3, 2), (0, 1), 2),
        (["--sfpo.outer_momentum", "0.5"], (1, 0), (1, 0), 3),
        (["--sfpo.preset", "grpo_k_passes", "--sfpo.outer_lr", "0.5"], (1, 0), (1, 0), 2),
        (["--sfpo.preset", "grpo_k_passes", "--sfpo.gate", "cosine"], (0, 1), (0, 1), 2),
    ],
)
def test_what_else_an_update_keeps(
    directory: Path, capsys: Any, changes: list[str], fast: tuple[int, int], slow: tuple[int, int], moments: int
) -> None:
    """Snapshot, and steps and gradients to compare, in fp32 shards, in the fast passes and in the slow pass;
    tests/unit/test_prediction.py measures the same from live tensors."""
    phases = planned(capsys, directory, *changes)["stages"][0]["phases"]
    shard = phases["slow pass"]["main parameters, fp32"]
    names = ("SFPO snapshot", "steps and gradients compared")
    assert tuple(phases["fast pass"].get(name, 0) // shard for name in names) == fast
    assert tuple(phases["slow pass"].get(name, 0) // shard for name in names) == slow
    assert phases["slow pass"]["Adam's moments, fp32"] == moments * shard


def planned(capsys: Any, model: Path, *flags: str) -> dict[str, Any]:
    status = plan_command.main([str(model), "--json", *flags])
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert status == (0 if plan["fits"] else 1)
    return plan


def test_samples_are_packed_for_all_passes_and_again_for_fast_passes_on_a_part(directory: Path, capsys: Any) -> None:
    flags = ["--vllm.num_engines", "1", "--rollout.batch_size", "16", "--rollout.n_samples_per_prompt", "8"]

    def packed(*others: str) -> int:
        (stage,) = planned(capsys, directory, *flags, "--data.max_len", "4096", *others)["stages"]
        assert "packed samples" not in stage["phases"]["rollout"]
        return stage["phases"]["fast pass"]["packed samples"]

    whole = packed()
    assert whole == 60 * 16 * 8 * 4096 // 8, "on eight data-parallel ranks"
    assert packed("--sfpo.fast_fraction", "0.5") == whole * 3 // 2
    many = packed("--rollout.batch_size", "8192", "--sfpo.fast_fraction", "0.9")
    assert many == 2 * 2**30, "the limit for each"


def test_what_fits_and_what_does_not(directory: Path, capsys: Any) -> None:
    """The state of a 7B model fits on GPUs of 80 GB with DP 8. Activations of 16192 tokens fit alongside it only with
    recomputation."""
    none = planned(capsys, directory)
    assert not none["fits"]
    assert "the actor needs" in none["problems"][0]
    full = planned(capsys, directory / "config.json", "--megatron.recompute", "full")
    assert full["fits"]
    same = planned(capsys, directory, "--actor.gradient_checkpointing_enable")
    assert same["stages"] == full["stages"]
    tight = planned(capsys, directory, "--megatron.recompute", "full", "--gpu_memory_gb", "60")
    assert not tight["fits"]
    some = planned(capsys, directory, "--megatron.recompute", "full", "--megatron.recompute_num_layers", "14")
    assert none["stages"][0]["peak"] > some["stages"][0]["peak"] > full["stages"][0]["peak"]
    long = planned(capsys, directory, "--megatron.recompute", "full", "--data.max_len", "65536")
    assert long["stages"][0]["peak"] > full["stages"][0]["peak"], "a long sample has a micro-batch to itself"


def test_an_engine_without_room_for_a_sequence(directory: Path, capsys: Any) -> None:
    flags = ("--megatron.recompute", "full", "--vllm.num_engines", "1", "--data.max_len", "32768")
    plan = planned(capsys, directory, *flags)
    assert plan["fits"]
    engine = plan["engine"]
    assert engine["weights"] == 2 * PARAMETERS["Qwen2.5-Math-7B"]
    assert engine["token"] == 2 * 28 * 4 * 128 * 2
    assert engine["sequences"] == engine["cache"] // engine["token"] // 32768
    small = planned(capsys, directory, *flags, "--vllm.gpu_memory_utilization", "0.25")
    assert not small["fits"]
    assert "keys and values" in small["problems"][0]


def test_colocated_engines_need_sleep(directory: Path, capsys: Any) -> None:
    shared = ("--train.colocate_all", "--vllm.num_engines", "8", "--vllm.gpu_memory_utilization", "0.6")
    shared += (
        "--megatron.tensor_model_parallel_size",
        "4",
        "--megatron.recompute",
        "full",
        "--algo.kl.init_coef",
        "0.1",
    )
    awake = planned(capsys, directory, *shared)
    assert not awake["fits"]
    asleep = planned(capsys, directory, *shared, "--vllm.enable_sleep", "--ds.enable_sleep")
    assert asleep["fits"]
    phases = asleep["stages"][0]["phases"]
    assert phases["rollout"]["vLLM engine"] == int(0.6 * 80 * GIB)
    assert "gradients, fp32" not in phases["rollout"]
    assert phases["rollout"]["parameters"] == phases["rollout"]["reference model"]
    assert phases["weight sync"]["vLLM engine"] > phases["slow pass"]["vLLM engine"]
    assert any("sleeping engines' weights" in what for what in asleep["host"])
    less = planned(
        capsys,
        directory,
        *shared,
        "--vllm.enable_sleep",
        "--ds.enable_sleep",
        "--megatron.offload_parameters",
        "--vllm.sleep_level",
        "2",
    )
    assert "parameters" not in less["stages"][0]["phases"]["rollout"]
    assert not any("sleeping engines' weights" in what for what in less["host"])


@pytest.mark.parametrize(
    ("pp", "vpp", "length", "expected"),
    # 128 samples on one model copy; budget 4096
    [(1, 1, 2048, 64), (4, 1, 2048, 64), (4, 2, 1000, 32), (4, 2, 900, 32), (4, 2, 8192, 128)],
)
def test_micro_batches_are_those_of_the_plan(pp: int, vpp: int, length: int, expected: int) -> None:
    setup = Setup(
        model_of("Qwen2.5-Math-7B"), Layout(1, pp, vpp), gpus=pp, max_tokens_per_gpu=4096, max_len=length, samples=128
    )
    (batch,) = plan_train_batches([[length] * 128], 128)
    real = plan_micro_batches([[length] * 128], [batch], 4096, multiple_of=pp if vpp > 1 else 1)
    assert schedule.micro_batches(setup) == len(real[0][0]) == expected
    assert schedule.bubble(setup, expected) == pytest.approx((pp - 1) / (vpp * expected + pp - 1))


@pytest.mark.parametrize(
    ("name", "gpus"), [("Qwen2.5-Math-7B", 8), ("Llama-3.1-8B", 16), ("Qwen2.5-32B", 64), ("Qwen2.5-72B", 128)]
)
def test_suggested_layouts_fit(name: str, gpus: int) -> None:
    found = suggestions(Setup(model_of(name), engines=Engines(count=1, tp=4)), gpus, 80)
    assert found
    for plan in found:
        setup, model = plan.setup, plan.setup.model
        setup.layout.check(setup.gpus, model)
        assert plan.fits
        assert setup.gpus + setup.engines.gpus == gpus
        assert setup.layout.tp <= 8
        assert make_plan(setup, 80).worst.worst.total <= 0.95 * 80 * GIB
    ranks = [(plan.setup.layout.cp, plan.setup.recompute != "none") for plan in found]
    assert ranks == sorted(ranks), "least context parallelism, then least recomputation first"
    assert len({(plan.setup.layout, plan.setup.recompute) for plan in found}) == len(found)


def test_stages_are_interleaved_where_the_bubble_is_large() -> None:
    def first(samples: int) -> Setup:
        engines = Engines(count=1, tp=8, utilization=0.6, sleep=True)
        setup = Setup(model_of("Qwen2.5-72B"), samples=samples, max_tokens_per_gpu=16384, max_len=8192, engines=engines)
        return suggestions(replace(setup, colocated=True, actor_sleeps=True), 64, 80)[0].setup

    few, many = first(16), first(1024)
    assert few.layout.vpp > 1
    assert f"--megatron.virtual_pipeline_model_parallel_size {few.layout.vpp}" in flags_of(few)
    assert many.layout.vpp == 1
    assert not any("virtual" in flag for flag in flags_of(many))


@pytest.mark.parametrize(
    ("gpus", "tp", "reference", "least"), [(1, 1, 0, 2), (2, 1, 1, 3), (8, 8, 0, 9), (9, 8, 1, 10)]
)
def test_too_few_gpus_for_an_actor_and_an_engine(gpus: int, tp: int, reference: int, least: int) -> None:
    setup = Setup(model_of("Qwen2.5-Math-7B"), engines=Engines(count=1, tp=tp), reference_gpus=reference)
    with pytest.raises(UsageError, match=f"need {least} or more.*--train.colocate_all"):
        suggestions(setup, gpus, 80)
    for plan in suggestions(setup, least, 80):
        assert plan.setup.engines.count == 1 and plan.setup.gpus == 1


def test_colocated_models_share_a_single_gpu(directory: Path, capsys: Any) -> None:
    flags = ["--train.colocate_all", "--vllm.enable_sleep", "--ds.enable_sleep", "--vllm.gpu_memory_utilization", "0.6"]
    assert plan_command.main([str(directory), "--gpus", "1", *flags, "--gpu_memory_gb", "400", "--json"]) == 0
    (plan, *_) = json.loads(capsys.readouterr().out)["suggestions"]
    assert plan["fits"]
    assert plan_command.main([str(directory), "--gpus", "1"]) == 2
    assert "--gpus: is 1, and engines and actor need 2 or more" in capsys.readouterr().err


def test_no_layout_fits_a_72b_model_on_one_node() -> None:
    assert suggestions(Setup(model_of("Qwen2.5-72B"), engines=Engines(count=1, tp=4)), 8, 80) == []


def test_the_plan_command_for_people(directory: Path, capsys: Any) -> None:
    assert plan_command.main([str(directory), "--gpus", "8"]) == 0
    text = capsys.readouterr().out
    for part in (
        "Layouts for 8 GPUs that fit",
        "--megatron.tensor_model_parallel_size 2",
        "Adam's moments, fp32",
        "It fits:",
    ):
        assert part in text
    words = text[text.index("The first one's flags:") :].split("\n\n")[0].replace("\\", " ").split()[4:]
    assert plan_command.main([str(directory), *words]) == 0, "the flags to copy are flags"
    again = capsys.readouterr().out
    assert again.strip() == text[text.index("Actor: ") :].strip()
    assert plan_command.main([str(directory), "--gpus=8", "--actor.num_gpus_per_node", "1"]) == 1
    assert "It does not fit: the actor needs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nowhere"], "/nowhere does not exist: / has no 'nowhere'"),
        (["DIR", "--gpus", "many"], "--gpus: is 'many'"),
        (["DIR", "--gpus", "-8"], "--gpus: is -8."),
        (["DIR", "--gpu_memory_gb"], "--gpu_memory_gb: is ''"),
        (["DIR", "--megatron.tensor_model_parallel_size", "3"], "--megatron.tensor_model_parallel_size: is 3"),
        (["DIR", "--megatron.context_parallel_size", "3"], "context parallel 3"),
        (["DIR", "--megatron.recompute_num_layers", "0"], "--megatron.recompute_num_layers: is 0."),
        (["DIR", "--vllm.gpu_memory_utilization", "95"], "--vllm.gpu_memory_utilization: is 95."),
        (["DIR", "--sfpo.alpha", "2"], "--sfpo.alpha: is 2.0."),
        (["DIR", "--actor.backend", "deepspeed"], "--actor.backend: is deepspeed"),
        (["--gpus", "8"], "MODEL_DIR: is not given"),
    ],
)
def test_bad_input_to_plan(directory: Path, capsys: Any, words: list[str], message: str) -> None:
    words = [str(directory) if word == "DIR" else word for word in words]
    if words[0].startswith("--"):
        words = [*words, "--json"]
    assert plan_command.main(words) == 2
    assert message in capsys.readouterr().err


def dry_run_flags(directory: Path, **changes: Any) -> list[str]:
    flags = {
        "actor.model_name_or_path": directory,
        "data.prompt_dataset": directory / "train.jsonl",
        "reward.remote_url": "math",
        "rollout.n_samples_per_prompt": 8,
        "run.dir": directory / "run",
        "vllm.num_engines": 2,
        "vllm.tensor_parallel_size": 4,
        "actor.num_nodes": 8,
        "megatron.tensor_model_parallel_size": 2,
        "megatron.pipeline_model_parallel_size": 2,
        "eval.dataset": "/nowhere/eval.parquet",
        **changes,
    }
    return ["--dry-run", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]


def test_a_dry_run_writes_nothing_and_lists_what_is_left_to_do(directory: Path, capsys: Any) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in (directory, directory / "config.json", directory.parent)}
    assert train.main(dry_run_flags(directory)) == 0
    text = capsys.readouterr().out
    assert "Still to do:" in text
    for part in ("train.jsonl does not exist", "eval.parquet does not exist", "hf download NAME --local-dir"):
        assert part in text
    assert "node 0, GPU 2-3                  DP 0, PP 1, TP 0-1" in text
    assert "DP 1-15: every 4 GPUs one copy" in text
    assert "engine 1" in text
    assert "GPUs of 80 GiB are assumed, as this machine has none; for others: openrlhf-sfpo plan MODEL_DIR" in text
    assert "It fits:" in text
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert [path.name for path in directory.iterdir()] == ["config.json"]


def test_remaining_preparations_are_listed_once(directory: Path, tmp_path: Path, capsys: Any) -> None:
    model = make_model(tmp_path / "model", "llama", hidden_size=128)
    (model / "tokenizer.json").unlink()
    changes = {"actor.model_name_or_path": model, "data.max_len": 64, "vllm.tensor_parallel_size": 1}
    assert train.main(dry_run_flags(directory, **changes)) == 0
    assert capsys.readouterr().out.count("has no tokenizer") == 1, "as weights and prompts are checked"


def test_a_dry_run_of_what_does_not_fit_or_is_wrong(directory: Path, capsys: Any) -> None:
    small = dry_run_flags(directory, **{"actor.num_nodes": 1, "megatron.pipeline_model_parallel_size": 1})
    assert train.main([*small, "--data.max_len", "32768"]) == 1
    assert "It does not fit" in capsys.readouterr().out
    assert train.main(dry_run_flags(directory, **{"sfpo.alpha": 1.5})) == 2
    assert "--sfpo.alpha: is 1.5." in capsys.readouterr().err
    assert train.main(dry_run_flags(directory, **{"megatron.pipeline_model_parallel_size": 3})) == 2
    assert "do not divide" in capsys.readouterr().err
    (directory / "train.jsonl").write_text('{"question": "?"}\n')
    assert train.main(dry_run_flags(directory, **{"eval.dataset": directory / "train.jsonl"})) == 2
    assert "--data.input_key" in capsys.readouterr().err, "a file that is there must be right"


def test_a_dry_run_imports_neither_ray_nor_an_engine(directory: Path) -> None:
    code = (
        "import sys; from openrlhf_sfpo.cli import train; status = train.main(sys.argv[1:]);"
        "print(status, [name for name in ('ray', 'vllm', 'openrlhf', 'deepspeed', 'megatron') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, *dry_run_flags(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_a_run_directory_of_something_else_is_refused_as_by_the_run(directory: Path, capsys: Any) -> None:
    (directory / "run").mkdir()
    (directory / "run" / "metrics.jsonl").write_text("{}")
    assert train.main(dry_run_flags(directory)) == 2
    assert "holds metrics.jsonl of something other than a run" in capsys.readouterr().err


def test_a_run_directory_that_cannot_be_written_here_is_still_to_do(directory: Path, capsys: Any) -> None:
    (directory / "file").touch()
    assert train.main(dry_run_flags(directory, **{"run.dir": directory / "file" / "run"})) == 0
    assert f"--run.dir: {directory / 'file' / 'run'} cannot be written" in capsys.readouterr().out


def test_every_gpu_is_held_once() -> None:
    model = model_of("Qwen2.5-32B")
    for setup in (
        Setup(model, Layout(tp=4, pp=2, cp=2), gpus=64, engines=Engines(count=16, tp=4), reference_gpus=16),
        Setup(model, Layout(tp=2, pp=2), gpus=8, engines=Engines(count=3, tp=2)),
        Setup(model, Layout(tp=8), gpus=16),
    ):
        owners = [(placement.actor_ranks(setup), setup.gpus)]
        owners.append((placement.reference_ranks(setup), setup.reference_gpus))
        owners.append((placement.engine_ranks(setup), setup.engines.gpus))
        for held, gpus in owners:
            covered = [gpu for one in held for gpu in range(one.gpus[0], one.gpus[1] + 1)]
            assert covered == list(range(gpus))
    assert placement.place((8, 15), 8) == "node 1, GPU 0-7"
    assert placement.place((8, 31), 8) == "nodes 1-3"
    assert placement.remarks(Setup(model, Layout(tp=8), gpus=8, gpus_per_node=4))


def test_the_doctor_plans_the_memory_of_gpus(directory: Path) -> None:
    args = nested(parse(dry_run_flags(directory)[1:])[0])
    fits = resources.gpu_memory(resources.plan_of(args, 80 * GIB))
    assert (fits.check, fits.state) == ("GPU memory", "ok")
    assert "of 80.0 GiB planned" in fits.found
    small = resources.gpu_memory(resources.plan_of(args, 24 * GIB))
    assert small.state == "warning"
    assert "the actor needs" in small.found


def test_the_doctor_plans_the_memory_of_hosts(directory: Path, capsys: Any) -> None:
    flags = dry_run_flags(directory)[1:]
    plan = resources.plan_of(nested(parse([*flags, "--train.on_nonfinite", "skip"])[0]), 80 * GIB)
    need = sum(planned(capsys, directory, *flags, "--train.on_nonfinite", "skip")["host"].values())
    assert resources.host_memory(plan, need).state == "ok"
    short = resources.host_memory(plan, need - 1)
    assert short.state == "warning"
    assert short.fix.startswith("The largest part is 12.0 GiB of processes")
