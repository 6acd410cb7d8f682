"""What a person sees while a run goes on: a line for each step, and what is happening right now."""

import sys
import time
from typing import Any, TextIO

from openrlhf_sfpo.report.reading import accuracy_of, evaluated_datasets

# Above these a batch's fast passes are worth a warning. GRPO clips some hundredths of the tokens at most, and the fast
# passes of the quickstart, whose learning rate is ten times the paper's, move the weights by 3e-4 of their norm.
LARGE_CLIP_RATIO = 0.3
LARGE_DISPLACEMENT = 0.01


class Console:
    """Prints progress to a stream that stays clean whatever the libraries print.

    On a terminal the current phase is shown in place; elsewhere phases that take long get lines of their own.

    Args:
        stream: where to print.
        update: what a batch with fast passes is called.
    """

    def __init__(self, stream: TextIO | None = None, update: str = "SFPO") -> None:
        self._stream = stream or sys.stdout
        self._update = update
        self._warned: set[str] = set()
        self._live = self._stream.isatty()
        self._started = time.monotonic()
        self._shown = ""

    def say(self, text: str) -> None:
        """Print a line, with the time since the start."""
        self._clear()
        print(f"[{self._clock()}] {text}", file=self._stream, flush=True)

    def plain(self, text: str) -> None:
        """Print text without the time."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def phase(self, text: str, long: bool = False) -> None:
        """Show what is happening now. In a log only what takes long: the rest would be a line every few seconds."""
        if long and not self._live:
            self.say(f"{text} ...")
        if self._live:
            self._clear()
            self._shown = f"[{self._clock()}]   {text} ..."
            print(self._shown, end="\r", file=self._stream, flush=True)

    def metrics(self, line: dict[str, Any], total_steps: int | None) -> None:
        """One line for a step or an evaluation."""
        step = f"step {line['step']}" + (f"/{total_steps}" if total_steps else "")
        datasets = evaluated_datasets([line])
        if datasets:
            shown = ", ".join(f"{name} {accuracy(*accuracy_of(line, name))}" for name in datasets)
            self.say(f"{step}: held-out accuracy {shown}")
            return
        parts = [
            ("reward", line.get("reward_mean"), "{:.3f}"),
            ("entropy", line.get("sfpo/entropy"), "{:.2f}"),
            ("vllm|actor", line.get("train/rollout_log_prob_abs_diff"), "{:.4f}"),
            ("grad norm", line.get("train/actor_grad_norm"), "{:.2f}"),
            ("tokens/response", line.get("rollout/response_length_mean"), "{:.1f}"),
            ("seconds", line.get("time/step_total"), "{:.1f}"),
        ]
        shown = "  ".join(f"{name} {form.format(value)}" for name, value, form in parts if value is not None)
        mode = self._update if line.get("sfpo/active") else "skipped" if line.get("train/skipped_update") else "GRPO"
        self.say(f"{step}: {mode}  {shown}")
        for metric, text in warnings(line).items():
            if metric not in self._warned:
                self._warned.add(metric)
                self.say(f"warning: {text}")

    def checkpoint(self, event: dict[str, Any]) -> None:
        """How a save ended; see `orchestration.events`."""
        if event["error"] is None:
            self.say(
                f"checkpoint {event['tag']}: {event['bytes'] / 1e6:.0f} MB in {event['seconds']:.1f} s, for which the "
                f"training waited {event['blocked_seconds']:.1f} s"
            )
        else:
            self.say(
                f"warning: checkpoint {event['tag']} could not be written ({event['error']}); the one before is kept, "
                "and the run goes on"
            )

    def _clear(self) -> None:
        if self._shown:
            print(" " * len(self._shown), end="\r", file=self._stream)
            self._shown = ""

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._started)
        return f"{seconds // 60:2d}:{seconds % 60:02d}"


def warnings(line: dict[str, Any]) -> dict[str, str]:
    """What a step's metrics say against K and alpha, by metric."""
    found = {}
    clipped = line.get("sfpo/fast_clip_ratio") or 0.0
    if clipped > LARGE_CLIP_RATIO:
        found["sfpo/fast_clip_ratio"] = (
            f"in the last fast pass {100 * clipped:.0f} % of the tokens were clipped and gave no gradient. Lower "
            "--sfpo.k, or --actor.adam.lr."
        )
    moved = line.get("sfpo/displacement_rel") or 0.0
    if moved > LARGE_DISPLACEMENT:
        found["sfpo/displacement_rel"] = (
            f"the fast passes moved the weights by {100 * moved:.1f} % of their norm. Lower --sfpo.alpha, --sfpo.k or "
            "--actor.adam.lr."
        )
    return found


def before_and_after(lines: list[dict[str, Any]]) -> list[str]:
    """For each evaluated data set, its first and its last accuracy in words, from the lines of metrics.jsonl."""
    sentences = []
    for name in evaluated_datasets(lines):
        found = [line for line in lines if accuracy_of(line, name)]
        first, last = found[0], found[-1]
        if first["step"] == last["step"]:
            continue
        gain = 100 * (last[f"eval/{name}_pass1"] - first[f"eval/{name}_pass1"])
        sentences.append(
            f"held-out accuracy {name}: {accuracy(*accuracy_of(first, name))} before, "
            f"{accuracy(*accuracy_of(last, name))} after step {last['step']} ({gain:+.1f} points)"
        )
        errors = [line.get(f"eval/{name}_pass1_stderr") for line in (first, last)]
        if f"eval/{name}_pass1_sampling_stderr" in last and None not in errors:
            sentences.append(
                f"  (± is the standard error on these {last[f'eval/{name}_prompts']:.0f} prompts; taking them as draws "
                f"from others like them it is {100 * errors[0]:.1f} and {100 * errors[1]:.1f})"
            )
    return sentences


def accuracy(value: float, stderr: float | None) -> str:
    """An accuracy in percent with its standard error."""
    error = "" if stderr is None else f" ± {100 * stderr:.1f}"
    return f"{100 * value:.1f}{error} %"
