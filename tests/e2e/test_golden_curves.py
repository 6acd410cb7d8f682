"""Learning curves of SFPO and GRPO on the testbed, for one seed, against those stored in golden_curves.json.

Processors differ in the last bits of a sum, and from the first sample that differs because of it, two runs are as far
apart as two seeds. So each accuracy may be off by as much as two evaluations of equally good models, and the mean of a
curve by less.

python tests/e2e/test_golden_curves.py    rewrites the file, in about ten minutes
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean

import pytest
import yaml
from places import ROOT

from openrlhf_sfpo.report.runs import load_run

FILE = Path(__file__).with_name("golden_curves.json")
BATCHES, EVERY = 30, 5
LR = 3e-5
# An evaluation draws 2 samples for each of 150 problems; its standard error is about 0.035.
APART, APART_ON_AVERAGE = 0.15, 0.06


def curves(directory: Path) -> dict[str, dict[str, float]]:
    """Make the testbed, train on it twice, and return the accuracies by step."""
    run([str(ROOT / "examples" / "testbed" / "prepare.py"), str(directory)], directory)
    base = yaml.safe_load((ROOT / "examples" / "testbed" / "base.yaml").read_text(encoding="utf-8"))
    base["actor"]["model_name_or_path"] = str(directory / "model")
    base["data"] |= {"prompt_dataset": str(directory / "train.jsonl"), "max_samples": 16 * BATCHES}
    base["eval"] |= {"dataset": str(directory / "eval.jsonl"), "steps": EVERY}
    variants = {preset: {"sfpo.preset": preset, "actor.adam.lr": LR} for preset in ("sfpo", "grpo")}
    config = directory / "golden.yaml"
    config.write_text(yaml.safe_dump({"base": base, "variants": variants, "seeds": [1]}), encoding="utf-8")
    out = directory / "out"
    run(["-m", "openrlhf_sfpo.cli.main", "compare", str(config), "--out", str(out)], directory)
    found = {}
    for preset in variants:
        points = load_run(out / "runs" / f"{preset}_seed=1").points()
        found[preset] = {str(point.step): round(point.accuracy, 4) for point in points}
    return found


def run(words: list[str], directory: Path) -> None:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=1500)
    logs = "\n".join(path.read_text(encoding="utf-8")[-3000:] for path in directory.rglob("console.log"))
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{logs}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_curves_are_those_of_the_file(tmp_path: Path) -> None:
    golden, found = json.loads(FILE.read_text(encoding="utf-8")), curves(tmp_path)
    for preset, wanted in golden.items():
        assert found[preset] == pytest.approx(wanted, abs=APART), preset
        assert mean(found[preset].values()) == pytest.approx(mean(wanted.values()), abs=APART_ON_AVERAGE), preset
    assert mean(found["sfpo"].values()) > mean(found["grpo"].values())
    assert found["sfpo"][str(BATCHES)] > found["sfpo"]["0"] + 0.1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        FILE.write_text(json.dumps(curves(Path(place)), indent=1) + "\n", encoding="utf-8")
