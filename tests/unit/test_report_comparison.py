"""Runs, comparisons and reports, from handmade run directories with known results."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import SFPO, make_run

from openrlhf_sfpo.config.effective_update import effective_update
from openrlhf_sfpo.report.comparison import Comparison
from openrlhf_sfpo.report.groups import Curves, aligned, smoothed
from openrlhf_sfpo.report.page import numbers, summary, write_report
from openrlhf_sfpo.report.runs import Point, find_runs, load_run
from openrlhf_sfpo.report.tables import all_tables, results, to_target
from openrlhf_sfpo.system.errors import UsageError


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """GRPO and SFPO at two learning rates and three seeds. At its best rate SFPO takes half the rollouts."""
    curves = {
        ("grpo", 1e-5): [0.2, 0.3, 0.4, 0.5, 0.6],
        ("grpo", 1e-4): [0.2, 0.5, 0.3, 0.2, 0.1],
        ("sfpo", 1e-5): [0.2, 0.4, 0.6, 0.7, 0.8],
        ("sfpo", 1e-4): [0.2, 0.1, 0.1, 0.1, 0.1],
    }
    for (preset, lr), curve in curves.items():
        for seed in (1, 2, 3):
            passes = 4 if preset == "sfpo" else 1
            name = f"{preset}_{lr}_{seed}"
            make_run(tmp_path / name, curve, passes, sfpo__preset=preset, actor__adam__lr=lr, train__seed=seed)
    return tmp_path


def load(directory: Path) -> Comparison:
    return Comparison([load_run(path) for path in find_runs([directory])])


def test_variants_are_compared_at_their_best_settings(grid: Path) -> None:
    comparison = load(grid)
    assert comparison.baseline == "grpo"
    assert comparison.target == 0.6
    baseline, sfpo = comparison.results
    assert (baseline.group.variant, baseline.group.setting) == ("grpo", "lr=1e-05")
    assert (sfpo.group.variant, sfpo.group.setting) == ("sfpo", "lr=1e-05")
    assert baseline.to_target == {"rollouts": 256, "passes": 4, "tokens": 4000, "seconds": 8.0}
    assert sfpo.to_target == {"rollouts": 128, "passes": 8, "tokens": 8000, "seconds": 8.0}
    assert {axis: estimate.value for axis, estimate in sfpo.ratio.items()} == {
        "rollouts": 2.0,
        "passes": 0.5,
        "tokens": 0.5,
        "seconds": 1.0,
    }
    assert (sfpo.ratio["rollouts"].low, sfpo.ratio["rollouts"].high) == (2.0, 2.0)  # all seeds agree
    assert sfpo.best.value == sfpo.last.value == 0.8
    assert sfpo.after.value == pytest.approx(0.7)
    (sentence,) = summary(comparison)
    assert "reaches grpo's best accuracy (60.0 %) with 2.00 times fewer rollouts, 2.00 times as many" in sentence
    assert "backward passes, 2.00 times as many backward tokens and as many seconds." in sentence


def test_tokens_are_compared_where_every_run_has_counted_them(tmp_path: Path) -> None:
    make_run(tmp_path / "g", [0.2, 0.6], sfpo__preset="grpo")
    old = make_run(tmp_path / "s", [0.2, 0.7], 4)
    metrics = old / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("sfpo/backward_tokens_total", "something"))
    comparison = load(tmp_path)
    assert list(comparison.axes) == ["rollouts", "passes", "seconds"]
    assert not any("tokens" in column for column in to_target(comparison).head)
    assert "tokens" not in summary(comparison)[0]
    assert list(load(tmp_path / "g").axes) == ["rollouts", "passes", "tokens", "seconds"]


def test_what_sampling_costs_is_counted_in_passes(grid: Path) -> None:
    """64 responses of 12 tokens in each batch, at three backward passes over them."""
    runs = [load_run(path) for path in find_runs([grid])]
    for run in runs:
        for line in run.lines:
            line.update({"rollout/num_samples": 64.0 * (line["step"] > 0), "train/total_length": 12.0})
    comparison = Comparison(runs, rollout_cost=3.0)
    baseline, sfpo = comparison.results
    assert baseline.to_target["cost"] == 4000 + 4 * 3 * 64 * 12
    assert sfpo.to_target["cost"] == 8000 + 2 * 3 * 64 * 12
    assert comparison.axes["cost"] == "tokens, if sampling costs 3 passes"
    assert "cost ratio" in to_target(comparison).head
    (sentence,) = summary(comparison)
    assert "tokens, if sampling costs 3 passes" in sentence
    assert Comparison(runs, rollout_cost=0.0).results[1].to_target["cost"] == 8000


def test_what_an_accuracy_takes_at_the_soonest_setting(grid: Path) -> None:
    """GRPO is at 50 % soonest with the rate that does not lead it highest: after a step, then two."""
    runs = [load_run(path) for path in find_runs([grid])]
    comparison = Comparison(runs, accuracies=[0.5, 0.6, 0.9])
    assert [comparison.needed("grpo", "rollouts", accuracy) for accuracy in (0.5, 0.6, 0.9)] == [64, 256, math.inf]
    assert [comparison.needed("sfpo", "rollouts", accuracy) for accuracy in (0.5, 0.6)] == [96, 128]
    found = comparison.soonest("sfpo", "rollouts", 0.5)
    assert found.value == found.low == found.high == pytest.approx(64 / 96)
    assert comparison.soonest("sfpo", "rollouts", 0.6).value == 2.0
    assert math.isnan(comparison.soonest("sfpo", "rollouts", 0.9).value)
    assert comparison.soonest("grpo", "tokens", 0.6).value == 1.0
    (table,) = [one for one in all_tables(comparison) if "soonest" in one.title]
    rows = {(row[0], row[1]): row for row in table.rows}
    assert table.head[:4] == ["variant", "accuracy, %", "rollouts", "rollouts ratio"]
    assert rows["sfpo", "60.0"][2:4] == ["128", "2.00"]
    assert rows["grpo", "90.0"][2:4] == ["never", "1"]
    assert not [one for one in all_tables(Comparison(runs)) if "soonest" in one.title]


def test_a_variant_that_never_reaches_the_target_says_so(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        make_run(tmp_path / f"g{seed}", [0.2, 0.6], sfpo__preset="grpo", train__seed=seed)
        make_run(tmp_path / f"s{seed}", [0.2, 0.7 if seed == 1 else 0.4], 4, train__seed=seed)
    comparison = load(tmp_path)
    result = comparison.results[1]
    assert result.reached == 1
    assert result.after is None
    assert math.isinf(result.to_target["rollouts"])
    assert result.ratio["rollouts"].value == 0.0
    assert result.ratio["rollouts"].high > 0  # some resamples contain the one run that does
    assert (
        "does not reach grpo's best accuracy (60.0 %): its own is 40.0 %; 1 of 3 runs reach" in summary(comparison)[0]
    )
    assert "never" in to_target(comparison).rows[1]
    json.dumps(numbers(comparison), allow_nan=False)


def test_falling_back_after_the_peak_shows(tmp_path: Path) -> None:
    make_run(tmp_path / "g", [0.2, 0.4, 0.6], sfpo__preset="grpo")
    make_run(tmp_path / "s", [0.2, 0.7, 0.3, 0.2], 4)
    comparison = load(tmp_path)
    assert comparison.results[1].after.value == pytest.approx(0.4)
    table = results(comparison)
    assert [row[table.head.index("mean after it, %")] for row in table.rows] == ["60.0", "40.0"]


def test_an_interval_reports_resamples_that_never_reach_the_target(tmp_path: Path) -> None:
    for seed, best in enumerate((0.5, 0.55, 0.6, 0.65, 0.7)):
        make_run(tmp_path / f"g{seed}", [0.2, 0.4, 0.6], sfpo__preset="grpo", train__seed=seed)
        make_run(tmp_path / f"s{seed}", [0.2, best, best], 4, train__seed=seed)
    comparison = load(tmp_path)
    (sentence,) = summary(comparison)
    assert "with 2.00 times fewer rollouts (90 % interval never to " in sentence
    table = to_target(comparison)
    assert table.rows[1][table.head.index("rollouts ratio")].startswith("2.00 [never, ")


def test_a_slower_variants_interval_is_about_the_number_before_it(tmp_path: Path) -> None:
    for seed, middle in enumerate((0.2, 0.3, 0.6)):
        make_run(tmp_path / f"g{seed}", [0.2, 0.6], sfpo__preset="grpo", train__seed=seed)
        make_run(tmp_path / f"s{seed}", [0.2, middle, 0.7], 4, train__seed=seed)
    (sentence,) = summary(load(tmp_path))
    numbers_said = re.search(r"([\d.]+) times as many rollouts \(90 % interval ([\d.]+) to ([\d.]+)", sentence)
    ratio, low, high = map(float, numbers_said.groups())
    assert (low, high) == (1.0, 1.8)  # those of the fastest and the slowest seed
    assert low < ratio < high


def test_the_interval_of_a_ratio_contains_the_choice_of_the_setting(tmp_path: Path) -> None:
    """Two learning rates whose best accuracies are nearly the same and whose speeds differ: resamples pick either."""
    for seed, jitter in enumerate((-0.02, -0.01, 0.0, 0.01, 0.02)):
        make_run(tmp_path / f"g{seed}", [0.2, 0.3, 0.4, 0.5, 0.6], sfpo__preset="grpo", train__seed=seed)
        slow = [0.2, 0.3, 0.4, 0.61, 0.70 + jitter]
        fast = [0.2, 0.61, 0.62, 0.65, 0.70 - jitter]
        make_run(tmp_path / f"a{seed}", slow, 4, actor__adam__lr=1e-5, train__seed=seed)
        make_run(tmp_path / f"b{seed}", fast, 4, actor__adam__lr=1e-4, train__seed=seed)
    ratio = load(tmp_path).results[1].ratio["rollouts"]
    assert ratio.low < 1.5
    assert ratio.high > 3.5


def curves(accuracy: list[list[float]]) -> Curves:
    """Evaluations after 0, 10 and 20 steps of 64 rollouts and 4 passes."""
    steps = np.broadcast_to([0.0, 10.0, 20.0], (len(accuracy), 3))
    return Curves(
        np.array(accuracy), {"rollouts": 64 * steps, "passes": 4 * steps, "tokens": 4000 * steps, "seconds": 2 * steps}
    )


def test_crossing_is_linear_between_evaluations() -> None:
    one = curves([[0.2, 0.4, 0.8]])
    assert one.reach("rollouts", 0.5) == pytest.approx([800])
    assert one.reach("passes", 0.4) == pytest.approx([40])
    assert one.reach("seconds", 0.1) == pytest.approx([0])
    assert one.reach("rollouts", 0.9) == [math.inf]
    several = curves([[0.2, 0.4, 0.8], [0.2, 0.2, 0.2], [0.4, 0.4, 0.2]])
    assert several.reach("rollouts", np.array([0.8, 0.3, 0.4])) == pytest.approx([1280, math.inf, 0])


def test_what_comes_after_the_crossing_and_within_a_budget() -> None:
    several = curves([[0.2, 0.8, 0.4], [0.2, 0.3, 0.4]])
    assert several.best == pytest.approx([0.8, 0.4])
    assert several.last == pytest.approx([0.4, 0.4])
    assert several.after(0.5) == pytest.approx([0.6, math.nan], nan_ok=True)
    assert several.within("passes", 10) == pytest.approx([0.2, 0.2])
    assert several.within("passes", np.array([40, 80])) == pytest.approx([0.8, 0.4])


def test_an_unfinished_run_does_not_shorten_the_others() -> None:
    steps, values = aligned([{0: 0.2, 5: 0.4, 10: 0.6}, {0: 0.2, 5: 0.5}, {0: 0.1, 5: 0.6, 10: 0.8, 15: 0.9}])
    assert steps == [0, 5, 10]
    assert values[1] == pytest.approx([0.2, 0.5, math.nan], nan_ok=True)


def test_single_runs_that_peak_at_different_times_set_no_target(tmp_path: Path) -> None:
    """The best of each is luck; the target must be what the runs reach together at some time."""
    for seed, curve in enumerate([[0.2, 0.9, 0.3, 0.3], [0.2, 0.3, 0.9, 0.3], [0.2, 0.3, 0.3, 0.9]]):
        make_run(tmp_path / f"g{seed}", curve, sfpo__preset="grpo", train__seed=seed)
        make_run(tmp_path / f"s{seed}", [0.2, 0.4, 0.4, 0.4], 4, train__seed=seed)
    comparison = load(tmp_path)
    assert comparison.target == 0.3
    assert comparison.results[0].to_target["rollouts"] == 64
    assert comparison.results[1].reached == 3


def test_equal_budgets_take_the_setting_that_is_best_for_them(tmp_path: Path) -> None:
    """SFPO has four passes a step: within GRPO's eight it has only two steps, where the higher rate is ahead."""
    make_run(tmp_path / "g", [0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4], sfpo__preset="grpo")
    make_run(tmp_path / "a", [0.2, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], 4, actor__adam__lr=1e-5)
    make_run(tmp_path / "b", [0.2, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 4, actor__adam__lr=1e-4)
    comparison = load(tmp_path)
    budgets = comparison.results[1].budgets
    found = {axis: (budget.accuracy.value, budget.group.swept["actor.adam.lr"]) for axis, budget in budgets.items()}
    assert found == {"rollouts": (0.9, 1e-5), "passes": (0.5, 1e-4), "tokens": (0.5, 1e-4), "seconds": (0.5, 1e-5)}


def test_smoothing_takes_the_mean_of_neighbors(tmp_path: Path) -> None:
    curve = [
        Point(step, 64 * step, step, 1000 * step, 2000 * step, step, accuracy)
        for step, accuracy in enumerate([0.0, 0.3, 0.9, 0.3])
    ]
    assert [point.accuracy for point in smoothed(curve, 3)] == pytest.approx([0.0, 0.4, 0.5, 0.6])
    assert [point.rollouts for point in smoothed(curve, 3)] == [0, 64, 128, 192]
    assert smoothed(curve, 1) == curve
    # One lucky evaluation of the baseline must not set the target.
    make_run(tmp_path / "g", [0.2, 0.3, 0.9, 0.3, 0.3], sfpo__preset="grpo")
    make_run(tmp_path / "s", [0.2, 0.6, 0.6, 0.6, 0.6], 4)
    runs = [load_run(path) for path in find_runs([tmp_path])]
    assert Comparison(runs).results[1].reached == 0
    assert Comparison(runs, smooth=3).target == pytest.approx(0.5)
    assert Comparison(runs, smooth=3).results[1].reached == 1
    assert "mean of 3 neighboring evaluations" in results(Comparison(runs, smooth=3)).note


def test_intervals_of_medians(tmp_path: Path) -> None:
    """Of five values the median of five draws is the lowest with probability P(at least 3 of 5 draws) = 0.058."""
    for seed, accuracy in enumerate([0.1, 0.2, 0.3, 0.4, 0.5]):
        make_run(tmp_path / f"g{seed}", [accuracy], train__seed=seed)
    comparison = load(tmp_path)
    estimate = comparison.best(comparison.groups[0])
    assert (estimate.value, estimate.low, estimate.high) == (0.3, 0.1, 0.5)


def test_seeds_that_agree_leave_no_interval(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path / f"g{seed}", [0.2], train__seed=seed)
    comparison = load(tmp_path)
    estimate = comparison.best(comparison.groups[0])
    assert estimate.low == estimate.high == 0.2


@pytest.mark.parametrize(
    ("changes", "same_as"),
    [
        ({"sfpo.preset": "grpo", "sfpo.k": 7}, {"sfpo.preset": "grpo", "sfpo.k": 1, "sfpo.gate": "off"}),
        ({"sfpo.k": 0}, {"sfpo.preset": "grpo"}),
        ({"sfpo.enable": False}, {"sfpo.preset": "grpo"}),
        ({"sfpo.preset": "grpo_k_passes", "sfpo.alpha": 0.1}, {"sfpo.preset": "grpo_k_passes"}),
        ({"sfpo.gate": "off", "sfpo.gate_window": 5}, {"sfpo.gate": "off"}),
        ({"sfpo.snapshot_device": "cpu"}, {}),
        ({"sfpo.preset": "grpo_scaled_lr", "sfpo.max_fast_kl": 0.1}, {"sfpo.preset": "grpo_scaled_lr"}),
        ({"sfpo.preset": "grpo_scaled_lr", "sfpo.fast_fraction": 0.5}, {"sfpo.preset": "grpo_scaled_lr"}),
        ({"sfpo.fast_selection": "random", "sfpo.fast_fraction": 1.0}, {"sfpo.fast_fraction": 1.0}),
        ({"sfpo.prepo_retention": "tensor"}, {}),
        ({"sfpo.outer_momentum": 0.0, "sfpo.outer_lr": 1.0}, {}),
        ({"sfpo.enable": False, "sfpo.outer_momentum": 0.5, "sfpo.outer_lr": 1.0}, {"sfpo.preset": "grpo"}),
        ({"sfpo.gate": "cosine", "sfpo.gate_window": 5}, {"sfpo.gate": "cosine"}),
        ({"sfpo.gate": "grad_norm", "sfpo.gate_entropy": "start"}, {"sfpo.gate": "grad_norm"}),
    ],
)
def test_settings_that_change_nothing_make_no_variant(changes: dict[str, Any], same_as: dict[str, Any]) -> None:
    assert effective_update({**SFPO, **changes}) == effective_update({**SFPO, **same_as})


@pytest.mark.parametrize(
    "changes",
    [
        {"sfpo.k": 5},
        {"sfpo.alpha": 0.5},
        {"sfpo.gate": "off"},
        {"sfpo.stop_step": 3},
        {"sfpo.max_fast_kl": 0.1},
        {"sfpo.fast_fraction": 0.5},
        {"sfpo.outer_momentum": 0.5, "sfpo.outer_lr": 1.0},
    ],
)
def test_settings_that_matter_make_a_variant(changes: dict[str, Any]) -> None:
    assert effective_update({**SFPO, **changes}) != effective_update(SFPO)


def test_the_gate_matters_to_grpo_with_an_outer_momentum() -> None:
    plain = {**SFPO, "sfpo.preset": "grpo", "sfpo.outer_momentum": 0.5, "sfpo.outer_lr": 1.0}
    assert effective_update({**plain, "sfpo.gate_window": 5}) != effective_update(plain)
    assert effective_update({**plain, "sfpo.k": 5}) == effective_update(plain)


def test_variants_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    for gate in ("off", "upper", "two_sided"):
        make_run(tmp_path / gate, [0.2, 0.5], 4, sfpo__gate=gate, sfpo__gate_window=10)
    make_run(tmp_path / "grpo", [0.2, 0.5], sfpo__preset="grpo")
    names = {group.variant for group in load(tmp_path).groups}
    assert names == {"grpo", "sfpo gate=off", "sfpo gate=upper", "sfpo gate=two_sided"}


def test_a_limit_a_part_and_a_momentum_make_variants_with_names_of_their_own(tmp_path: Path) -> None:
    plain = {"sfpo.max_fast_kl": None, "sfpo.fast_fraction": 1.0, "sfpo.outer_momentum": 0.0, "sfpo.outer_lr": 1.0}
    part = {"sfpo.fast_fraction": 0.25, "sfpo.fast_selection": "variance"}
    kinds: list[dict[str, Any]] = [{}, {"sfpo.max_fast_kl": 0.01}, part, {"sfpo.outer_momentum": 0.5}]
    kinds += [{"sfpo.preset": "grpo"}, {"sfpo.preset": "grpo", "sfpo.outer_momentum": 0.5}]
    for number, changes in enumerate(kinds):
        make_run(tmp_path / str(number), [0.2, 0.5], **plain | changes)
    make_run(tmp_path / "older", [0.2, 0.5], train__seed=2)  # of a version without these flags
    names = [group.variant for group in load(tmp_path).groups]
    assert sorted(names) == [
        "grpo",
        "grpo outer_momentum=0.5",
        "sfpo",
        "sfpo fast_fraction=0.25 fast_selection=variance",
        "sfpo max_fast_kl=0.01",
        "sfpo outer_momentum=0.5",
    ]


def test_settings_of_the_update_get_a_grid_plot(tmp_path: Path) -> None:
    make_run(tmp_path / "grpo", [0.2, 0.5], sfpo__preset="grpo")
    for k in (1, 3):
        for alpha in (0.2, 0.8):
            make_run(tmp_path / f"{k}_{alpha}", [0.2, 0.4 + 0.1 * k * alpha], 4, sfpo__k=k, sfpo__alpha=alpha)
    comparison = load(tmp_path)
    assert [result.group.variant for result in comparison.results][:2] == ["grpo", "sfpo K=1 alpha=0.2"]
    _, files = write_report(comparison, tmp_path / "out", "Grid")
    assert "report_grid.png" in {file.name for file in files}


def test_the_report_is_one_page_without_links(grid: Path, tmp_path: Path) -> None:
    tables, files = write_report(load(grid), tmp_path / "out", "A <title>")
    assert {file.name for file in files} == {
        "report.html",
        "report.json",
        "report.md",
        "report_accuracy.png",
        "report_dynamics.png",
        "report_needed.png",
        "report_sweep.png",
    }
    page = files[0].read_text()
    assert "A &lt;title&gt;" in page
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page.replace("http-equiv", "")
    assert [table.title for table in tables] == [
        "Results, each variant at its best setting",
        "Needed to reach grpo's best accuracy, 60.0 %",
        "At equal budgets, those of grpo",
        "All settings",
        "Training dynamics",
        "Runs",
    ]
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["results"][1]["ratio"]["rollouts"]["value"] == 2.0
    assert len(written["groups"]) == 4


def report(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "openrlhf_sfpo.cli.main", "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_broken_runs_are_named_and_the_others_reported(grid: Path) -> None:
    (grid / "empty").mkdir()
    (grid / "empty" / "config.yaml").write_text("sfpo.preset: [")
    (grid / "empty" / "metrics.jsonl").write_text("")
    make_run(grid / "one_step", [0.3], train__seed=9, actor__adam__lr=3e-5)
    broken = make_run(grid / "broken", [0.2, 0.3, 0.4], train__seed=8, actor__adam__lr=3e-5)
    text = (broken / "metrics.jsonl").read_text().splitlines()
    text[1:2] = ["not json", "[1, 2]", '{"step": "two"}', '{"step": 2, "eval/sums_pass1": "high"}']
    (broken / "metrics.jsonl").write_text("\n".join(text) + '\n{"step": 3, "eval/su')
    make_run(grid / "grpo.incomplete-1", [0.99], sfpo__preset="grpo")
    done = report(grid)
    assert done.returncode == 0, done.stderr
    for remark in (
        "config.yaml is not YAML; metrics.jsonl has no step yet",
        "metrics.jsonl, lines 2 to 4 are not steps of this run; left out",
    ):
        assert remark in done.stdout
    assert "line 7" not in done.stdout  # the line that is being written
    assert "incomplete" not in done.stdout
    assert "Traceback" not in done.stderr
    assert "2.00" in done.stdout  # SFPO's ratio is still there
    assert (grid / "report.html").exists()


def test_a_single_run_is_reported_while_it_runs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0.2, 0.3], 4, state="running")
    done = report(run)
    assert done.returncode == 0, done.stderr
    assert "running" in done.stdout
    assert "rollouts ratio" not in done.stdout  # nothing to compare with
    assert (run / "report_accuracy.png").exists()


def test_a_run_without_evaluations_still_shows_its_training(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0.2, 0.3])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps({k: v for k, v in line.items() if "eval" not in k}) + "\n" for line in lines)
    )
    done = report(run, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "no evaluation (--eval.dataset)" in done.stdout
    assert (tmp_path / "out" / "report_dynamics.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "RUN_DIR: nowhere is not a directory."),
        (["{grid}", "--smooth", "2"], "--smooth: is 2. Use an odd number, such as 3."),
        (
            ["{grid}", "--baseline", "ppo"],
            "--baseline: there is no variant 'ppo' with an evaluation; there is grpo, sfpo.",
        ),
    ],
)
def test_bad_input_is_named(grid: Path, arguments: list[str], message: str) -> None:
    done = report(*(argument.replace("{grid}", str(grid)) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr


def test_a_directory_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        find_runs([tmp_path])
