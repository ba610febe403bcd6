"""One call of every tool, in an order that makes sense, and every resource and prompt.

This is the one place that knows the tools by name. A client that finds a tool which is not called here fails, and so
does a tool that is called here and not found. The table is data, because clients in other languages read it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A call.

    A text in the arguments that is a name in angle brackets stands for a value kept from an earlier answer, and
    `{run}` for what tells the runs of different clients apart. What is in `answers` must be in the structured content.
    """

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    answers: Mapping[str, Any] = field(default_factory=dict)
    keep: Mapping[str, str] = field(default_factory=dict)


_FILE = "src/{run}.rs"
_FORCED = "src/{run}/forced.rs"
_TYPE = "client-{run}"
_POLICY = '@id("clients.forbid") @reason("not_today") forbid(principal, action, resource);'

CASES: tuple[Case, ...] = (
    Case("help"),
    Case("get_my_profile", {}, {"success": True}),
    # A session of an agent.
    Case(
        "register_session",
        {"session_id": "session-{run}", "capabilities": ["rust", "review"], "current_task": "trying a client"},
        {"success": True},
        {"session": "session_id"},
    ),
    Case("heartbeat", {"session_id": "<session>"}, {"success": True, "session_id": "<session>"}),
    Case("discover_agents", {"capability": "rust"}),
    Case(
        "report_status",
        {"phase": "testing", "message": "half way", "event_type": "phase", "metadata": {"done": 50}},
        {"success": True},
    ),
    # What policy says.
    Case("check_guardrails", {"operation_text": "cargo test", "file_paths": ["src/main.rs"]}, {"safe": True}),
    Case("check_policy", {"operation": "acquire_lock", "resource": _FILE}, {"allowed": True}),
    Case("validate_cedar_policy", {"policy_text": _POLICY}, {"valid": True, "errors": []}),
    Case("check_network", {"domain": "github.com"}, {"allowed": True, "domain": "github.com"}),
    # A lock from grant to release, and one that is taken away.
    Case(
        "acquire_lock",
        {"file_path": _FILE, "reason": "trying a client", "ttl_minutes": 5},
        {"success": True, "action": "acquired", "file_path": _FILE, "reason": None},
        {"fence": "fencing_token"},
    ),
    Case("check_locks", {"file_paths": [_FILE]}),
    Case("verify_lock", {"file_path": _FILE, "fencing_token": "<fence>"}, {"valid": True}),
    Case(
        "renew_lock",
        {"file_path": _FILE, "fencing_token": "<fence>", "ttl_minutes": 10},
        {"success": True, "action": "refreshed", "fencing_token": "<fence>"},
    ),
    Case("release_lock", {"file_path": _FILE, "fencing_token": "<fence>"}, {"success": True}),
    Case("acquire_lock", {"file_path": _FORCED}, {"success": True, "action": "acquired"}),
    Case("force_release_lock", {"file_path": _FORCED}, {"released": True}),
    # A task from submission to its end, and one that is withdrawn.
    Case(
        "submit_work",
        {
            "task_type": _TYPE,
            "task_description": "count the words",
            "input_data": {"path": "README.md"},
            "priority": 3,
            "max_attempts": 2,
        },
        {"success": True},
        {"task": "task_id"},
    ),
    Case("list_tasks", {"status": "pending", "task_type": _TYPE}, {"count": 1, "truncated": False}),
    Case(
        "get_work",
        {"task_types": [_TYPE], "lease_seconds": 60},
        {"success": True, "task_id": "<task>", "input_data": {"path": "README.md"}, "priority": 3},
        {"claim": "claim_token"},
    ),
    Case(
        "heartbeat_work",
        {"task_id": "<task>", "claim_token": "<claim>", "lease_seconds": 120},
        {"success": True},
    ),
    Case(
        "complete_work",
        {"task_id": "<task>", "claim_token": "<claim>", "success": True, "result": {"words": 42}},
        {"success": True, "status": "completed", "task_id": "<task>"},
    ),
    Case("get_task", {"task_id": "<task>"}, {"success": True}),
    Case(
        "submit_work",
        {"task_type": _TYPE, "task_description": "withdraw me"},
        {"success": True},
        {"withdrawn": "task_id"},
    ),
    Case(
        "cancel_work",
        {"task_id": "<withdrawn>", "reason": "not needed"},
        {"success": True, "status": "cancelled", "task_id": "<withdrawn>"},
    ),
    # Handoffs and memory.
    Case(
        "write_handoff",
        {"summary": "tried a client", "next_steps": ["try another"], "relevant_files": [_FILE]},
        {"success": True},
    ),
    Case("read_handoff", {"limit": 1}),
    Case(
        "remember",
        {"event_type": "discovery", "summary": "{run} works", "tags": ["clients"], "details": {"run": "{run}"}},
        {"success": True, "action": "created"},
    ),
    Case("recall", {"tags": ["clients"], "limit": 5}),
    # Looking back, and cleaning up.
    Case("query_audit", {"limit": 5}),
    Case("cleanup_dead_agents", {"dry_run": True}, {"success": True}),
)

# What an agent whose profile only reads is refused.
DENIED = Case("acquire_lock", {"file_path": "src/{run}/denied.rs"}, {"success": False, "error": "denied"})

# A required argument is missing: the model that made the call must be told, so it is an answer, not a protocol error.
INCOMPLETE = Case("acquire_lock", {}, {"success": False, "error": "invalid_request"})

# What changes nothing; every other tool must not claim so.
READ_ONLY = frozenset(
    {
        "check_guardrails",
        "check_locks",
        "check_network",
        "check_policy",
        "discover_agents",
        "get_my_profile",
        "get_task",
        "help",
        "list_tasks",
        "query_audit",
        "read_handoff",
        "recall",
        "validate_cedar_policy",
        "verify_lock",
    }
)

RESOURCES = (
    "audit://recent",
    "guardrails://patterns",
    "handoffs://recent",
    "locks://current",
    "memories://recent",
    "profiles://current",
    "work://pending",
)

PROMPTS: Mapping[str, Mapping[str, str]] = {
    "coordinate_file_edit": {"file_path": "src/main.rs", "task": "rename a function"},
    "start_work_session": {},
}

TOOLS = frozenset(case.tool for case in CASES)


def resolve(value: Any, run: str, kept: Mapping[str, Any]) -> Any:
    """A value of the table with what stands for something else replaced."""
    if isinstance(value, str):
        if value.startswith("<") and value.endswith(">"):
            return kept[value[1:-1]]
        return value.replace("{run}", run)
    if isinstance(value, Mapping):
        return {name: resolve(inner, run, kept) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [resolve(inner, run, kept) for inner in value]
    return value


def wrong_answers(case: Case, structured: Mapping[str, Any], run: str, kept: Mapping[str, Any]) -> list[str]:
    """What the structured content of an answer should hold and does not."""
    wanted = resolve(case.answers, run, kept)
    return [
        f"`{name}` should be {value!r} and is {structured.get(name, 'absent')!r}"
        for name, value in wanted.items()
        if name not in structured or structured[name] != value
    ]


def as_data() -> dict[str, Any]:
    """The table for clients in other languages."""
    return {
        "cases": [asdict(case) for case in CASES],
        "denied": asdict(DENIED),
        "incomplete": asdict(INCOMPLETE),
        "readOnly": sorted(READ_ONLY),
        "resources": list(RESOURCES),
        "prompts": PROMPTS,
        "tools": sorted(TOOLS),
    }
