"""What was checked and what failed, printed as one line per step."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_MOST_SHOWN = 4000


class Step:
    """Collects failures instead of stopping at the first: one run should tell all that is wrong."""

    def __init__(self) -> None:
        self.checks = 0
        self.failures: list[str] = []

    def check(self, good: bool, what: str, seen: Any = None) -> bool:
        """Counts a check; a failed one keeps what was seen instead."""
        self.checks += 1
        if not good:
            self.failures.append(what if seen is None else f"{what}\n{_show(seen)}")
        return good

    def fail(self, what: str, seen: Any = None) -> None:
        """A check that failed."""
        self.check(False, what, seen)


class Report:
    """All steps. Several may be under way at once; each prints its line when it ends."""

    def __init__(self) -> None:
        self._checks = 0
        self._failures = 0

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Times a step. What it raises is a failure of the step; the next ones still run."""
        step, began = Step(), time.monotonic()
        try:
            yield step
        except Exception as error:
            step.fail("it broke off", _chain(error))
        if step.checks == 0:
            step.fail("nothing was checked")
        bad = len(step.failures)
        verdict = f"{step.checks} checks" + (f", {bad} FAILED" if bad else "")
        lines = [f"{time.monotonic() - began:7.1f} s  {name}: {verdict}"]
        lines += [f"           {line}" for failure in step.failures for line in f"FAILED: {failure}".splitlines()]
        print("\n".join(lines), flush=True)
        self._checks += step.checks
        self._failures += bad

    def conclude(self) -> int:
        """The exit status, after a summary."""
        if self._failures:
            print(f"{self._failures} of {self._checks} checks failed", file=sys.stderr, flush=True)
            return 1
        print(f"all green: {self._checks} checks", flush=True)
        return 0


def _show(seen: Any) -> str:
    text = seen if isinstance(seen, str) else json.dumps(seen, default=str)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} … ({len(text)} characters)"


def _chain(error: BaseException) -> str:
    """An error and what is in it: task groups wrap what really happened."""
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(_chain(inner) for inner in error.exceptions)
    cause = f"\ncaused by {_chain(error.__cause__)}" if error.__cause__ else ""
    return f"{type(error).__name__}: {error}{cause}"
