"""The command line of the MCP Inspector: one process per call, which is how people try a server by hand."""

from __future__ import annotations

import json
import re
from typing import Any

import cases
import surface
from bench import Bench
from report import Step
from service import Agent
from tools import Done
from tools import run as run_program

# Each transport in one era of the protocol; the SDKs do the other combinations.
RUNS = (("http", "modern"), ("stdio", "legacy"))

_CALL_SECONDS = 60.0
_PACKAGE, _SCRIPT = "@modelcontextprotocol/inspector", "clients/launcher/build/index.js"
# What the Inspector exits with when a tool answers an error.
_TOOL_ERROR = 5
# What is wrong with a schema, among much that is only said to be unusual.
_COMPLAINT = re.compile(r"^Error: tool .*\n +Path: .*\n +Issue: .*$", re.MULTILINE)


class _Inspector:
    """One agent's Inspector over one transport."""

    def __init__(self, step: Step, bench: Bench, agent: Agent, transport: str, era: str) -> None:
        service = bench.service
        self._step, self._folder = step, bench.folder
        self._env = service.env(PATH=bench.tools.path())
        self._command = [*bench.tools.package(_PACKAGE, _SCRIPT), "--cli"]
        if transport == "http":
            header = f"Authorization: Bearer {agent.key}"
            self._command += ["--transport", "http", "--server-url", service.mcp_url, "--header", header]
        else:
            self._command += service.stdio(agent)
        self._options = ["--protocol-era", era, "--format", "json", "--quiet"]

    async def ask(self, method: str, *options: str, status: int = 0) -> dict[str, Any]:
        """One call: the result it printed, `{}` if it failed."""
        command = [*self._command, "--method", method, *options, *self._options]
        done = await run_program(command, self._env, _CALL_SECONDS, self._folder)
        what = f"{method} {' '.join(options)}"
        complaints = "\n".join(_COMPLAINT.findall(done.err))
        self._step.check(done.status == status, f"{what} exits with {status}", complaints or done.tail())
        result = _result(done)
        self._step.check(result is not None, f"{what} prints a result", done.tail())
        return result or {}

    async def call(self, tool: str, arguments: dict[str, Any], status: int = 0) -> dict[str, Any]:
        """One call of a tool."""
        return await self.ask(
            "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments), status=status
        )


async def run(step: Step, bench: Bench, transport: str, era: str) -> None:
    """Lists everything, calls every tool, reads every resource, gets every prompt, and is denied once."""
    label = f"inspector-{transport}"
    inspector = _Inspector(step, bench, bench.agents.tester, transport, era)
    # Strict: a schema that some host cannot read is an error.
    tools = await inspector.ask("tools/list", "--strict")
    names = surface.check_tools(step, tools.get("tools") or [])
    kept: dict[str, Any] = {}
    for case in cases.CASES:
        if case.tool in names:
            await _call(step, inspector, case, label, kept)
    resources = await inspector.ask("resources/list")
    for uri in surface.check_resources(step, resources.get("resources") or []):
        surface.check_contents(step, uri, await inspector.ask("resources/read", "--uri", uri))
    prompts = await inspector.ask("prompts/list")
    for name in surface.check_prompts(step, prompts.get("prompts") or []):
        pairs = [f"{key}={value}" for key, value in cases.PROMPTS[name].items()]
        arguments = ["--prompt-args", *pairs] if pairs else []
        surface.check_messages(step, name, await inspector.ask("prompts/get", "--prompt-name", name, *arguments))
    reader = _Inspector(step, bench, bench.agents.reader, transport, era)
    denied = cases.resolve(cases.DENIED.arguments, label, {})
    surface.check_denial(step, denied, await reader.call(cases.DENIED.tool, denied, _TOOL_ERROR), label)


async def _call(step: Step, inspector: _Inspector, case: cases.Case, label: str, kept: dict[str, Any]) -> None:
    try:
        arguments = cases.resolve(case.arguments, label, kept)
    except KeyError as missing:
        step.fail(f"{case.tool} is called: {missing} was not answered earlier")
        return
    result = await inspector.call(case.tool, arguments)
    structured = surface.check_answer(step, case, arguments, result, label, kept)
    kept.update({name: structured[key] for name, key in case.keep.items() if key in structured})


def _result(done: Done) -> dict[str, Any] | None:
    try:
        result = json.loads(done.out)["result"]
    except (ValueError, KeyError, TypeError):
        return None
    return result if isinstance(result, dict) else None
