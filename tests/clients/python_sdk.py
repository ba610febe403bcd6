"""The official Python SDK as a client: both transports, both eras of the protocol."""

from __future__ import annotations

import time
import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from pydantic import BaseModel

import cases
import surface
from bench import Bench
from cases import Case
from report import Step
from service import Agent, Service

# The transport, the mode of the SDK, and the revision that must come of it: `auto` must find the newest one without
# being told. Over stdio, an agent is known by its name on a data folder or by its key before a server.
RUNS = (
    ("http", "legacy", "2025-11-25"),
    ("http", "auto", "2026-07-28"),
    ("stdio", "legacy", "2025-11-25"),
    ("stdio", "auto", "2026-07-28"),
    ("stdio by key", "legacy", "2025-11-25"),
    ("stdio by key", "auto", "2026-07-28"),
)

_CALL_SECONDS = 30.0
_ALL_SECONDS = 120.0
# How long a cancelled wait would have gone on, and how soon its end must be noticed.
_WAIT_SECONDS = 40
_PROMPT_SECONDS = 10.0


async def run(step: Step, bench: Bench, transport: str, mode: str, revision: str) -> None:
    """Everything that this client can do, over one transport in one mode."""
    service, agents, label = bench.service, bench.agents, f"py-{transport}-{mode}".replace(" ", "-")
    with anyio.fail_after(_ALL_SECONDS):
        async with _connect(service, agents.tester, transport, mode) as client:
            step.check(client.protocol_version == revision, "the revision is negotiated", client.protocol_version)
            step.check(bool(client.server_info and client.server_info.version), "the server tells who it is")
            await _call_tools(step, client, label)
            await _read(step, client)
            if mode == "legacy":
                await _ping(step, client)
            await _bad_calls(step, client, label)
            await _cancel(step, bench, client, label)
            await _progress(step, bench, client, label)
        async with _connect(service, agents.reader, transport, mode) as client:
            arguments = cases.resolve(cases.DENIED.arguments, label, {})
            result = await client.call_tool(cases.DENIED.tool, arguments)
            surface.check_denial(step, arguments, _json(result), label)


async def run_without_server(step: Step, bench: Bench) -> None:
    """Over stdio, a data folder is enough: nothing else needs to run."""
    with anyio.fail_after(_ALL_SECONDS):
        async with _connect(bench.service, bench.agents.tester, "stdio", "auto") as client:
            surface.check_tools(step, await _listed(client.list_tools, "tools"))
            profile = _json(await client.call_tool("get_my_profile", {})).get("structuredContent") or {}
            agent = (profile.get("profile") or {}).get("agent_id")
            step.check(agent == bench.agents.tester.name, "it knows the agent", profile)


@asynccontextmanager
async def _connect(service: Service, agent: Agent, transport: str, mode: str) -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:
        if transport == "http":
            http = create_mcp_http_client(headers={"Authorization": f"Bearer {agent.key}"})
            streams = streamable_http_client(service.mcp_url, http_client=await stack.enter_async_context(http))
        else:
            by_key = transport == "stdio by key"
            command, *arguments = service.stdio_before_server() if by_key else service.stdio(agent)
            env = service.env(**({"PORTREEVE_API_KEY": agent.key} if by_key else {}))
            log = stack.enter_context(service.log.open("a"))
            streams = stdio_client(StdioServerParameters(command=command, args=arguments, env=env), errlog=log)
        # Without the cache, every call reaches the server.
        client = Client(streams, mode=mode, read_timeout_seconds=_CALL_SECONDS, cache=None)
        yield await stack.enter_async_context(client)


async def _call_tools(step: Step, client: Client, label: str) -> None:
    tools = {tool["name"]: tool for tool in await _listed(client.list_tools, "tools")}
    surface.check_tools(step, tools.values())
    kept: dict[str, Any] = {}
    for case in cases.CASES:
        if case.tool in tools:
            await _call(step, client, case, tools[case.tool], label, kept)


async def _call(step: Step, client: Client, case: Case, tool: dict[str, Any], label: str, kept: dict[str, Any]) -> None:
    try:
        arguments = cases.resolve(case.arguments, label, kept)
    except KeyError as missing:
        step.fail(f"{case.tool} is called: {missing} was not answered earlier")
        return
    surface.check_arguments(step, tool, arguments)
    try:
        # The SDK raises if the structured content is not what the output schema says.
        result = await client.call_tool(case.tool, arguments)
    except (MCPError, RuntimeError, ValueError) as error:
        step.fail(f"{case.tool}({arguments}) is answered as its schema says", str(error))
        return
    structured = surface.check_answer(step, case, arguments, _json(result), label, kept)
    kept.update({name: structured[key] for name, key in case.keep.items() if key in structured})


async def _read(step: Step, client: Client) -> None:
    for uri in surface.check_resources(step, await _listed(client.list_resources, "resources")):
        surface.check_contents(step, uri, _json(await client.read_resource(uri)))
    await client.list_resource_templates()
    for name in surface.check_prompts(step, await _listed(client.list_prompts, "prompts")):
        result = await client.get_prompt(name, dict(cases.PROMPTS[name]))
        surface.check_messages(step, name, _json(result))


async def _listed(method: Any, key: str) -> list[dict[str, Any]]:
    """All pages of a list."""
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = await method(cursor=cursor)
        items += _json(page)[key]
        cursor = page.next_cursor
        if cursor is None:
            return items


async def _ping(step: Step, client: Client) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ping is gone from the newest revision; this is an older one.
        result = await client.send_ping()
    step.check(result is not None, "ping is answered")


async def _bad_calls(step: Step, client: Client, label: str) -> None:
    """What a model or a user may get wrong ends neither the connection nor the server."""
    result = await client.call_tool(cases.INCOMPLETE.tool, dict(cases.INCOMPLETE.arguments))
    surface.check_error(step, cases.INCOMPLETE, cases.INCOMPLETE.arguments, _json(result), label)
    for what, refused in (
        ("an unknown tool", lambda: client.call_tool("no_such_tool", {})),
        ("an unknown resource", lambda: client.read_resource("locks://no-such-resource")),
        ("an unknown prompt", lambda: client.get_prompt("no_such_prompt")),
    ):
        try:
            step.fail(f"{what} is refused", str(await refused()))
        except MCPError as error:
            step.check(error.code in (-32602, -32601, -32002), f"{what} is refused with a fitting code", str(error))


async def _cancel(step: Step, bench: Bench, client: Client, label: str) -> None:
    """A cancelled wait is over on the server as well: what comes later goes to nobody."""
    path, task_type = f"src/{label}/cancelled.rs", f"cancelled-{label}"
    held = await _by_holder(bench, "/locks/acquire", {"file_path": path, "reason": "in the way"})
    step.check(held.get("success") is True, "another agent holds a lock", held)
    await _abandon(step, client, "acquire_lock", {"file_path": path, "wait_seconds": _WAIT_SECONDS})
    await _by_holder(bench, "/locks/release", {"file_path": path})
    await _abandon(step, client, "get_work", {"task_types": [task_type], "wait_seconds": _WAIT_SECONDS})
    submitted = await _by_holder(bench, "/work/submit", {"task_type": task_type, "task_description": "for nobody"})
    await anyio.sleep(1.5)
    _, lock = await bench.service.request("GET", f"/locks/status/{path}", bench.agents.holder.key)
    step.check(lock.get("locked") is False, "a cancelled wait takes no lock", lock)
    task = await _by_holder(bench, "/work/get", {"task_id": submitted.get("task_id")})
    step.check(task.get("task", {}).get("status") == "pending", "a cancelled wait claims no task", task)


async def _by_holder(bench: Bench, path: str, body: dict[str, Any]) -> dict[str, Any]:
    _, answer = await bench.service.request("POST", path, bench.agents.holder.key, body)
    return answer


async def _abandon(step: Step, client: Client, tool: str, arguments: dict[str, Any]) -> None:
    began = time.monotonic()
    with anyio.move_on_after(1.0) as scope:
        result = await client.call_tool(tool, arguments)
        step.fail(f"{tool}({arguments}) waits", _json(result))
    if scope.cancelled_caught:
        step.check(time.monotonic() - began < _PROMPT_SECONDS, f"{tool} is cancelled at once")
    result = await client.call_tool("get_my_profile", {})
    step.check(not result.is_error, f"the connection lives on after {tool} is cancelled", _json(result))


async def _progress(step: Step, bench: Bench, client: Client, label: str) -> None:
    """A call that waits tells so, if the client asks to be told."""
    path = f"src/{label}/progress.rs"
    await _by_holder(bench, "/locks/acquire", {"file_path": path})
    seen: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    arguments = {"file_path": path, "wait_seconds": 3}
    result = await client.call_tool("acquire_lock", arguments, progress_callback=on_progress)
    structured = _json(result).get("structuredContent") or {}
    step.check(structured.get("action") == "blocked", "a wait in vain ends as blocked", structured)
    step.check(bool(seen), "a waiting call with a progress token reports progress")
    step.check(seen == sorted(set(seen)), "progress only grows", seen)


def _json(value: BaseModel) -> dict[str, Any]:
    """A result as it was on the wire."""
    return value.model_dump(by_alias=True, mode="json", exclude_unset=True)
