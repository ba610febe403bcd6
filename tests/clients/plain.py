"""What no client library checks: who is let in at the MCP endpoint, and how stdio ends."""

from __future__ import annotations

from bench import Bench
from report import Step
from tools import run

_END_SECONDS = 20.0
_INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "plain", "version": "0"}},
}


async def check_keys(step: Step, bench: Bench) -> None:
    """Nobody without a key gets in, by whatever method; each of the three headers lets one in."""
    for method in ("POST", "GET", "DELETE"):
        body = _INITIALIZE if method == "POST" else None
        for what, key in (("no", None), ("an unknown", "prv_" + "0" * 64)):
            status, answer = await bench.service.request(method, "/mcp", key, body)
            good = status == 401 and answer.get("error") == "unauthenticated"
            step.check(good, f"{method} /mcp with {what} key answers 401", [status, answer])
    key = bench.agents.tester.key
    for name, value in (("Authorization", f"Bearer {key}"), ("X-Coordinator-API-Key", key), ("X-API-Key", key)):
        status, answer = await bench.service.request("POST", "/mcp", None, _INITIALIZE, {name: value})
        step.check(status == 200 and "result" in answer, f"a key in {name} lets one in", [status, answer])


async def check_end_of_stdio(step: Step, bench: Bench) -> None:
    """A client that goes away takes its server with it: nothing is left running when stdin ends."""
    done = await run(bench.service.stdio(bench.agents.tester), bench.service.env(), _END_SECONDS, bench.folder)
    step.check(done.status == 0, "`portreeve mcp` ends well at the end of its input", done.tail())
    step.check(done.out == "", "`portreeve mcp` prints nothing but messages", done.out)
