"""Hooks that Schemathesis loads: what it makes up must not take a minute per request."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A wait that the server would grant is not waited for; one that it must refuse is left as it is."""
    if isinstance(case.body, dict) and _is_granted(case.body.get("wait_seconds")):
        case.body = {**case.body, "wait_seconds": 0}


def _is_granted(wait: Any) -> bool:
    # Numbers may come as text, too.
    try:
        return not isinstance(wait, bool) and 0 < float(wait) <= 60
    except (TypeError, ValueError):
        return False
