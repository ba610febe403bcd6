"""The official TypeScript SDKs as clients: `client.mjs` does the work, this starts it and reads what it checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cases
from bench import Bench
from report import Step
from service import Agent, Service
from tools import run as run_program

# The SDK, how it negotiates, and the revision that must come of it. Version 1 is what most hosts are built on today.
RUNS = tuple(
    (transport, sdk, mode, revision)
    for transport in ("http", "stdio")
    for sdk, mode, revision in (
        ("v1", "legacy", "2025-11-25"),
        ("v2", "2025-06-18", "2025-06-18"),
        ("v2", "legacy", "2025-11-25"),
        ("v2", "auto", "2026-07-28"),
    )
)

_ALL_SECONDS = 120.0
_SCRIPT = "client.mjs"


async def run(step: Step, bench: Bench, transport: str, sdk: str, mode: str, revision: str) -> None:
    """One SDK over one transport in one mode."""
    service, agents = bench.service, bench.agents
    # Packages are looked up from where the script is.
    script = bench.tools.folder / _SCRIPT
    shutil.copyfile(Path(__file__).with_name(_SCRIPT), script)
    settings = {
        "run": f"ts-{sdk}-{transport}-{mode}",
        "sdk": sdk,
        "mode": mode,
        "revision": revision,
        "url": service.url,
        "holderKey": agents.holder.key,
        "tester": _peer(service, agents.tester, transport),
        "reader": _peer(service, agents.reader, transport),
        "table": cases.as_data(),
    }
    done = await run_program(
        [bench.tools.node, script], service.env(), _ALL_SECONDS, bench.folder, json.dumps(settings)
    )
    step.check(done.status == 0, f"{_SCRIPT} runs to its end", done.tail())
    for line in done.out.splitlines():
        check = json.loads(line)
        step.check(check["good"], check["what"], check.get("seen"))


def _peer(service: Service, agent: Agent, transport: str) -> dict[str, object]:
    if transport == "http":
        return {"url": service.mcp_url, "key": agent.key}
    command, *arguments = service.stdio(agent)
    return {"command": command, "args": arguments, "env": service.env()}
