"""Grades many programs at a time, each in a sandbox of its own."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from openrlhf_sfpo.tasks.code.programs import suite_of
from openrlhf_sfpo.tasks.code.sandbox import LIMITS, Limits, Verdict, run_tests

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def grade_programs(programs: Sequence[str | None], labels: Sequence[str], limits: Limits = LIMITS) -> list[Verdict]:
    """Run each program, None where a response has none, with the tests of its label.

    All callers of a process share as many sandboxes at a time as half of its processors, so that the engines go on.

    Raises:
        ValueError: a label has no tests.
    """
    return list(_shared_pool().map(lambda program, label: _grade(program, label, limits), programs, labels))


def _grade(program: str | None, label: str, limits: Limits) -> Verdict:
    tests = suite_of(label)
    return Verdict(False, reason="no program") if program is None else run_tests(program, tests, limits)


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            count = max(1, len(os.sched_getaffinity(0)) // 2)
            _pool = ThreadPoolExecutor(count, thread_name_prefix="code")
        return _pool
