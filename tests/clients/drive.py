"""Drives third-party clients against a Portreeve binary. `run` installs them and starts this."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import conformance
import inspector
import plain
import python_sdk
import schemathesis_run
import typescript
from bench import Agents, Bench
from report import Report, Step
from service import Service
from tools import Tools

Work = Callable[[Step, Bench], Coroutine[Any, Any, None]]

# Most steps wait more than they compute.
_AT_ONCE = 4


def main() -> int:
    """Runs the parts that are asked for, all if none is; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True, help="the Portreeve binary under test")
    parser.add_argument("--tools", type=Path, required=True, help="the folder that `run` installed into")
    parser.add_argument("--node", type=Path, required=True, help="the Node.js that runs the packages")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to run: {', '.join(_PARTS)}; all by default")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(_PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    report, began = Report(), time.monotonic()
    status = asyncio.run(_until_signal(report, options))
    print(f"{time.monotonic() - began:7.1f} s  in all", flush=True)
    return status or report.conclude()


async def _until_signal(report: Report, options: argparse.Namespace) -> int:
    """Runs to the end, or until it is told to stop: then it stops what it started, and the status says so."""
    running = asyncio.create_task(_run(report, options))
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await running
    except asyncio.CancelledError:
        return 128 + received[0]
    return 0


async def _run(report: Report, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="portreeve-clients-") as name:
        folder = Path(name)
        service, bench = Service(options.binary.resolve(strict=True), folder), None
        try:
            with report.step("start a server and register agents") as step:
                await service.start()
                step.check((await service.request("GET", "/ready", None))[0] == 200, "the server is ready")
                agents = Agents(
                    tester=await service.add_agent("tester", "claude_code_local"),
                    reader=await service.add_agent("reader", "claude_code_reviewer"),
                    holder=await service.add_agent("holder", "claude_code_local"),
                )
                bench = Bench(Tools(options.tools, options.node), service, agents, folder)
            if bench:
                await _run_parts(report, bench, options.parts)
        finally:
            with report.step("stop the server") as step:
                step.check(await service.stop() == 0, "the server stops when asked", service.log_tail())
        if bench and (not options.parts or "python" in options.parts):
            with report.step("Python SDK: stdio without a server") as step:
                await python_sdk.run_without_server(step, bench)


async def _run_parts(report: Report, bench: Bench, wanted: Sequence[str]) -> None:
    """One part after the other; the steps of a part are independent, so some run at once."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def run(name: str, work: Work) -> None:
        async with room:
            with report.step(name) as step:
                await work(step, bench)

    for part, steps in _PARTS.items():
        if part in wanted or not wanted:
            async with asyncio.TaskGroup() as group:
                for name, work in steps.items():
                    group.create_task(run(name, work))


async def _schemathesis(step: Step, bench: Bench, name: str) -> None:
    agent = bench.service.admin() if name == "admin" else bench.agents.tester
    await schemathesis_run.run(step, bench, agent)


# In this order: Schemathesis leaves behind what it made up.
_PARTS: dict[str, dict[str, Work]] = {
    "plain": {
        "keys at the MCP endpoint": plain.check_keys,
        "the end of stdio": plain.check_end_of_stdio,
    },
    "conformance": {
        "conformance: lists of scenarios": conformance.check_lists,
        **{
            f"conformance: {package}, {revision or 'as released'}": partial(
                conformance.run_suite, package=package, revision=revision
            )
            for package, revision in conformance.RUNS
        },
    },
    "inspector": {
        f"Inspector: {transport}, {era}": partial(inspector.run, transport=transport, era=era)
        for transport, era in inspector.RUNS
    },
    "python": {
        f"Python SDK: {transport}, {mode} ({revision})": partial(
            python_sdk.run, transport=transport, mode=mode, revision=revision
        )
        for transport, mode, revision in python_sdk.RUNS
    },
    "typescript": {
        f"TypeScript SDK {sdk}: {transport}, {mode} ({revision})": partial(
            typescript.run, transport=transport, sdk=sdk, mode=mode, revision=revision
        )
        for transport, sdk, mode, revision in typescript.RUNS
    },
    "schemathesis": {f"Schemathesis as {name}": partial(_schemathesis, name=name) for name in ("tester", "admin")},
}

if __name__ == "__main__":
    sys.exit(main())
