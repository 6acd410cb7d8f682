"""Detects hangs, and reports where each rank is."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_sfpo.system.run_errors import WEIGHT_SYNC_HINT

_SILENT = 3  # heartbeats that a rank may miss before it counts as silent


@dataclass
class _Rank:
    beat: dict[str, Any]
    heard: float
    moved: float


class Watchdog:
    """Tracks the ranks' heartbeats (see `heartbeat.Heartbeat`).

    Args:
        timeout: --train.timeout, in seconds.
        stacks: the file for stack dumps.
        dump: returns the stack of a silent process, given its rank and last heartbeat.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        timeout: float,
        stacks: Path,
        dump: Callable[[int, dict[str, Any]], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout = timeout
        self._stacks = stacks
        self._dump = dump
        self._clock = clock
        self._ranks: dict[int, _Rank] = {}

    def hear(self, beats: dict[int, dict[str, Any]]) -> None:
        """Process the ranks' newest heartbeats."""
        now = self._clock()
        for number, beat in beats.items():
            before = self._ranks.get(number)
            moved = now
            if before is not None and before.beat["progress"] == beat["progress"] and before.beat["busy"]:
                moved = before.moved
            self._ranks[number] = _Rank(beat, now, moved)

    def verdict(self) -> str | None:
        """The report of a hang, once no busy rank has made progress for the timeout; None before. Writes the stacks."""
        now = self._clock()
        busy = {number: rank for number, rank in sorted(self._ranks.items()) if rank.beat["busy"]}
        if not busy or min(now - rank.moved for rank in busy.values()) < self._timeout:
            return None
        silence = _SILENT * max(1.0, min(2.0, self._timeout / 8))
        silent = {number: rank for number, rank in self._ranks.items() if now - rank.heard > silence}
        answering = {number: rank for number, rank in self._ranks.items() if number not in silent}
        waiting = {number: rank for number, rank in answering.items() if rank.beat.get("waits_in")}
        elsewhere = {number: rank for number, rank in answering.items() if number not in waiting}
        phases = sorted({rank.beat["phase"] for rank in busy.values()})
        sentences = [f"no rank made progress for {self._timeout:.0f} s (--train.timeout) in: {', '.join(phases)}."]
        for number, rank in silent.items():
            sentences.append(
                f"Rank {number} (process {rank.beat['pid']} on {rank.beat['host']}) did not arrive: it has given no "
                f"sign of life for {now - rank.heard:.0f} s, so it is stopped or its machine cannot be reached."
            )
        for number, rank in elsewhere.items():
            place = f"is at {_where(rank.beat.get('stack', ''))}" if rank.beat["busy"] else "was not called"
            sentences.append(
                f"Rank {number} (process {rank.beat['pid']} on {rank.beat['host']}) did not arrive: it {place}."
            )
        collectives = sorted({rank.beat["waits_in"] for rank in waiting.values()})
        if waiting:
            names = ", ".join(map(str, waiting))
            sentences.append(f"Rank(s) {names} wait for the others in {', '.join(collectives)}.")
        if any(phase.startswith("weights to") for phase in phases):
            sentences.append(WEIGHT_SYNC_HINT)
        sentences.append(f"The stacks of all ranks are in {self._stacks}.")
        self._write_stacks(silent)
        return " ".join(sentences)

    def processes(self) -> dict[str, dict[int, float]]:
        """The start times of all known ranks, by node (Ray ID) and PID."""
        found: dict[str, dict[int, float]] = {}
        for rank in self._ranks.values():
            found.setdefault(rank.beat["node"], {})[rank.beat["pid"]] = rank.beat["started"]
        return found

    def _write_stacks(self, silent: dict[int, _Rank]) -> None:
        parts = []
        for number, rank in sorted(self._ranks.items()):
            beat = rank.beat
            stack = self._dump(number, beat) if number in silent else beat.get("stack", "it carries out no call")
            parts.append(f"rank {number}, {beat['phase']}, process {beat['pid']} on {beat['host']}:\n{stack}\n")
        with suppress(OSError):  # the report is more important than the file
            self._stacks.write_text("\n".join(parts), encoding="utf-8")


def _where(stack: str) -> str:
    """A stack's innermost frame, as text."""
    places = [line.strip() for line in stack.splitlines() if line.strip().startswith("File ")]
    return places[-1].replace("File ", "", 1) if places else "an unknown place"
