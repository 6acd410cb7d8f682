"""The console output of a run: a line for each step, and the current phase."""

import sys
import time
from typing import Any, TextIO

from openrlhf_sfpo.report.alarms import Alarms
from openrlhf_sfpo.report.reading import accuracy_of, evaluated_datasets
from openrlhf_sfpo.system.streams import BestEffort


class Console:
    """Prints progress to a stream of its own, free of library output. If the stream's reader is gone, printing does
    nothing.

    On a terminal the current phase is shown in place; elsewhere only long phases get lines of their own.

    Args:
        stream: where to print.
        update: the name of updates with fast passes.
    """

    def __init__(self, stream: TextIO | None = None, update: str = "SFPO") -> None:
        output = stream or sys.stdout
        self._stream = output if isinstance(output, BestEffort) else BestEffort(output)
        self._update = update
        self._alarms = Alarms()
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
        """Show the current phase. In a log only long phases are shown, to avoid a line every few seconds."""
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
            known = ((name, accuracy_of(line, name)) for name in datasets)
            shown = ", ".join(f"{name} {accuracy(*measured)}" for name, measured in known if measured)
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
        for text in self._alarms.look(line):
            self.say(f"warning: {text}")

    def checkpoint(self, event: dict[str, Any]) -> None:
        """Print the result of a save; see `cluster.mailbox`."""
        if event["error"] is None:
            self.say(
                f"checkpoint {event['tag']}: {event['bytes'] / 1e6:.0f} MB in {event['seconds']:.1f} s, for which the "
                f"training waited {event['blocked_seconds']:.1f} s"
            )
        else:
            self.say(
                f"warning: checkpoint {event['tag']} could not be written ({event['error']}); the previous one is "
                "kept, and training continues"
            )

    def _clear(self) -> None:
        if self._shown:
            print(" " * len(self._shown), end="\r", file=self._stream)
            self._shown = ""

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._started)
        return f"{seconds // 60:2d}:{seconds % 60:02d}"


def before_and_after(lines: list[dict[str, Any]]) -> list[str]:
    """For each evaluated data set, its first and its last accuracy as text, from the lines of metrics.jsonl."""
    sentences = []
    for name in evaluated_datasets(lines):
        found = [(line, measured) for line in lines if (measured := accuracy_of(line, name))]
        (first, before), (last, after) = found[0], found[-1]
        if first["step"] == last["step"]:
            continue
        gain = 100 * (last[f"eval/{name}_pass1"] - first[f"eval/{name}_pass1"])
        sentences.append(
            f"held-out accuracy {name}: {accuracy(*before)} before, "
            f"{accuracy(*after)} after step {last['step']} ({gain:+.1f} points)"
        )
        key = f"eval/{name}_pass1_stderr"
        errors = [error for line in (first, last) if (error := line.get(key)) is not None]
        if f"eval/{name}_pass1_sampling_stderr" in last and len(errors) == 2:
            sentences.append(
                f"  (± is the standard error on these {last[f'eval/{name}_prompts']:.0f} prompts; taking them as draws "
                f"from others like them it is {100 * errors[0]:.1f} and {100 * errors[1]:.1f})"
            )
    return sentences


def accuracy(value: float, stderr: float | None) -> str:
    """An accuracy in percent with its standard error."""
    error = "" if stderr is None else f" ± {100 * stderr:.1f}"
    return f"{100 * value:.1f}{error} %"
