"""`openrlhf-sfpo compare`: what is planned, and what is repeated."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from cli import compare, small_grid, write_yaml
from made_runs import make_run

from openrlhf_sfpo.cli import compare as compare_command
from openrlhf_sfpo.cli.compare import plan
from openrlhf_sfpo.cli.flags import parse_settings
from openrlhf_sfpo.orchestration.worker_reuse import can_follow
from openrlhf_sfpo.runs.parallel_runs import SETTINGS, ParallelRuns, PlannedRun, still_to_do
from openrlhf_sfpo.system.errors import UsageError
from openrlhf_sfpo.system.files import locked

BASE = {"actor.model_name_or_path": "model", "data": {"prompt_dataset": "train.jsonl"}}


def test_the_grid_has_every_combination_once(tmp_path: Path) -> None:
    config = write_yaml(
        tmp_path / "grid.yaml",
        base=BASE,
        variants={"grpo": {"sfpo.preset": "grpo"}, "sfpo": {"sfpo": {"preset": "sfpo", "gate": "off"}}},
        sweep={"sfpo.k": [1, 3], "actor.adam.lr": [1e-5, 1e-4]},
        seeds=[1, 2],
    )
    runs = plan(config, tmp_path, ["rollout.batch_size=4"])
    # GRPO has no K, so its runs for both values are the same.
    assert len(runs) == 2 * (2 + 4)
    assert [run.name for run in runs[:2]] == ["grpo_k=1_lr=1e-05_seed=1", "grpo_k=1_lr=0.0001_seed=1"]
    last = vars(runs[-1].flat)
    assert (last["sfpo.k"], last["sfpo.gate"], last["actor.adam.lr"], last["train.seed"]) == (3, "off", 1e-4, 2)
    assert last["rollout.batch_size"] == 4
    assert last["run.dir"] == str(tmp_path / "runs" / runs[-1].name)
    assert {"sfpo.k", "train.seed", "run.dir"} <= runs[-1].given


def test_names_are_paths_and_differ(tmp_path: Path) -> None:
    sweep = {"data.prompt_dataset": ["a/train.jsonl", "a-train.jsonl"], "ckpt.path": ["x"]}
    config = write_yaml(tmp_path / "grid.yaml", base=BASE, variants=["grpo"], sweep=sweep, seeds=[1])
    names = [run.name for run in plan(config, tmp_path, [])]
    first = "grpo_prompt_dataset=a-train.jsonl_path=x_seed=1"
    assert names == [first, f"{first}-2"]


def test_a_run_that_no_swept_value_changes_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the time: one of OpenRLHF's defaults contains it."""
    minutes = itertools.count()

    def parse_later(*arguments: Any) -> Any:
        flat, given = parse_settings(*arguments)
        vars(flat)["logger.wandb.run_name"] = f"ppo_1123T07:{next(minutes)}"
        return flat, given

    monkeypatch.setattr(compare_command, "parse_settings", parse_later)
    config = write_yaml(tmp_path / "c.yaml", base=BASE, variants=["grpo", "sfpo"], sweep={"sfpo.k": [1, 3]})
    assert [run.name for run in plan(config, tmp_path, [])] == [
        "grpo_k=1_seed=42",
        "sfpo_k=1_seed=42",
        "sfpo_k=3_seed=42",
    ]


def test_the_base_may_be_a_file_in_the_same_directory(tmp_path: Path) -> None:
    write_yaml(tmp_path / "base.yaml", **BASE)
    (tmp_path / "c.yaml").write_text("base: base.yaml\nvariants: [grpo]\nsweep: {actor.adam.lr: [1e-4]}\n")
    (run,) = plan(tmp_path / "c.yaml", tmp_path, [])
    assert vars(run.flat)["actor.model_name_or_path"] == "model"
    assert vars(run.flat)["actor.adam.lr"] == 1e-4  # YAML alone would read 1e-4 as text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("variants: {a: {sfpo.gate: off}}", {"sfpo.gate": "off"}),
        ("variants: [sfpo]\nsweep: {sfpo.gate: [off]}", {"sfpo.gate": "off"}),
        ("variants: [sfpo]\nsweep: {sfpo.enable: ['no']}", {"sfpo.enable": False}),
        ("variants: [sfpo]\nsweep: {actor.adam.betas: [[0.8, 0.9]]}", {"actor.adam.betas": [0.8, 0.9]}),
        ("variants: [sfpo]\nseeds: [07]", {"train.seed": 7}),
        ("variants: [sfpoo]", "--sfpo.preset: is 'sfpoo' (FILE, line 2). Did you mean sfpo?"),
        ("variants: {a: {sfpo.k: 0}, a: {sfpo.k: 1}}", "sets 'a' twice, in line 2"),
        ("variants: {a: {sfpo.kk: 0}}", "FILE, line 2: sets 'sfpo.kk'"),
        ("sweep: {sfpo.k: [1, a]}", "--sfpo.k: is 'a', which is not a whole number (FILE, line 2)"),
        (
            "sweep: {train.seed: [1, 2]}",
            "FILE, line 2: sets train.seed, which a comparison sets for each run. Use seeds.",
        ),
        ("variants: {a: {run.dir: x}}", "Use --out."),
    ],
)
def test_values_are_read_as_their_flags_mean_them(tmp_path: Path, text: str, expected: Any) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"base: {{actor.model_name_or_path: m, data.prompt_dataset: d}}\n{text}\n", encoding="utf-8")
    if isinstance(expected, dict):
        (run,) = plan(config, tmp_path, [])
        assert {name: vars(run.flat)[name] for name in expected} == expected
        assert {name: run.settings[name] for name in expected} == expected
        return
    with pytest.raises(UsageError) as caught:
        plan(config, tmp_path, [])
    assert expected in str(caught.value).replace(str(config), "FILE")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.seed=3", "--set train.seed=3: sets train.seed, which a comparison sets for each run. Use seeds."),
        ("run.dir=x", "Use --out."),
        ("sfpo.enable=perhaps", "--sfpo.enable: is 'perhaps', which is not a boolean (--set sfpo.enable=perhaps)."),
        ("sfpo.kk=3", "--set sfpo.kk=3: sets 'sfpo.kk', which is not a flag. Did you mean sfpo.k?"),
        ("ckpt.path=", "--ckpt.path: is empty (--set ckpt.path=)."),
    ],
)
def test_mistakes_in_changes_are_named(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(write_yaml(tmp_path / "c.yaml", base=BASE), tmp_path, [change])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"base": BASE, "variant": []}, "has 'variant'. It may have base, variants, sweep, seeds."),
        ({"variants": ["sfpo"]}, "has no base."),
        ({"base": "missing.yaml"}, "missing.yaml does not exist."),
        ({"base": BASE, "variants": "sfpo"}, "variants is 'sfpo'."),
        ({"base": BASE, "variants": {"sfpo": 3}}, "Give a list of presets, or flags for each name."),
        ({"base": BASE, "sweep": {"actor.adam.lr": 1e-5}}, "sweep actor.adam.lr is 1e-05. Give a list of values."),
        ({"base": BASE, "seeds": 3}, "seeds is 3. Give a list of whole numbers."),
        ({"base": {**BASE, "sfpo.kk": 3}}, "sets 'sfpo.kk', which is not a flag."),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(write_yaml(tmp_path / "c.yaml", **content), tmp_path, [])
    assert message in str(caught.value)


def test_mistakes_in_flags_are_named(tmp_path: Path) -> None:
    config = write_yaml(tmp_path / "c.yaml", base=BASE)
    with pytest.raises(UsageError, match="Write NAME=VALUE"):
        plan(config, tmp_path, ["sfpo.k"])
    for arguments, message in (
        ([str(config), "--parallel", "0"], "--parallel: is 0. Use 1 or more."),
        ([str(config), "--lanes", "0"], "--parallel: is 0. Use 1 or more."),  # its name before 0.2
        ([str(tmp_path / "no.yaml")], "no.yaml does not exist."),
        ([str(config), "--set", "sfpo.alpha=2", "--out", str(tmp_path)], "--sfpo.alpha: is 2.0."),
    ):
        done = compare(*arguments)
        assert done.returncode == 2
        assert message in done.stderr


def test_finished_runs_are_kept_and_others_set_aside(tmp_path: Path) -> None:
    config = write_yaml(tmp_path / "c.yaml", base=BASE, variants=["grpo", "sfpo"], seeds=[1, 2])
    runs = plan(config, tmp_path, [])
    assert still_to_do(runs) == runs
    for run, state in zip(runs, ("finished", "running", "failed"), strict=False):
        make_run(run.directory, [0.1, 0.2], state=state)
        (run.directory / SETTINGS).write_text(json.dumps(run.settings))
    assert still_to_do(runs) == runs[1:]
    assert (runs[0].directory / "metrics.jsonl").exists()
    for run in runs[1:3]:
        assert not run.directory.exists()
        assert (run.directory.parent / f"{run.name}.incomplete-1" / "metrics.jsonl").exists()


def test_a_directory_of_another_comparison_is_refused(tmp_path: Path) -> None:
    config = write_yaml(tmp_path / "c.yaml", base=BASE, variants=["grpo"], seeds=[1])
    (run,) = plan(config, tmp_path, [])
    make_run(run.directory, [0.1])
    with pytest.raises(UsageError, match="holds a run of something else"):
        still_to_do([run])
    (run.directory / SETTINGS).write_text(json.dumps({**run.settings, "actor.adam.lr": 0.5}))
    with pytest.raises(UsageError, match=r"other settings \(actor.adam.lr: 0.5 then, None now\)"):
        still_to_do([run])
    assert (run.directory / "metrics.jsonl").exists()


def test_a_comparison_in_use_is_refused(tmp_path: Path) -> None:
    who = ("--out", tmp_path, "comparison")
    with locked(*who), pytest.raises(UsageError, match="in use by another comparison"), locked(*who):
        pass


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"sfpo.k": 7, "actor.adam.lr": 1e-4, "train.seed": 3, "run.dir": "b"}, True),
        ({"rollout.n_samples_per_prompt": 4, "eval.steps": 5}, True),
        ({"actor.model_name_or_path": "other"}, False),
        ({"data.max_len": 64}, False),
        ({"vllm.num_engines": 2}, False),
        ({"megatron.tensor_model_parallel_size": 2}, False),
        ({"reward.remote_url": "math"}, False),
        ({"algo.kl.init_coef": 0.1}, False),
        ({"train.async_enable": True}, False),
        ({"train.colocate_actor_ref": True}, False),
    ],
)
def test_which_runs_share_engines_and_actors(changes: dict[str, Any], kept: bool) -> None:
    settings = {"actor.model_name_or_path": "m", "data.prompt_dataset": "d", "run.dir": "a"}
    before, after = (vars(parse_settings(s, "test")[0]) for s in (settings, {**settings, **changes}))
    assert can_follow(before, after) == kept


def test_parallel_runs_divide_the_processors_equally_when_fewer_runs_are_left(
    testbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share per run must not change: a run's numbers depend on how many threads sum them."""
    counts = []

    class Counted(ParallelRuns):
        def __init__(self, count: int, *rest: Any) -> None:
            counts.append(count)
            super().__init__(count, *rest)

        def run(self, runs: list[PlannedRun]) -> bool:
            assert len(runs) == 2
            return True

    monkeypatch.setattr(compare_command, "ParallelRuns", Counted)
    config = small_grid(testbed, tmp_path / "grid.yaml")
    compare_command.main([str(config), "--out", str(tmp_path / "out"), "--parallel", "3"])
    assert counts == [3]
