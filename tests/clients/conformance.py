"""The official MCP conformance suite against the server, and what its verdicts mean here (`conformance.toml`)."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import Bench
from proxy import authorizing
from report import Step
from tools import Done, Tools, run

# Two versions of the suite: the released one, and the one that knows the newest revision. Only the latter really
# speaks the revision that it is asked for, and only it checks what goes over the wire against the schema.
RELEASED = ("conformance-2025", None)
BY_REVISION = (
    ("conformance-2026", "2025-06-18"),
    ("conformance-2026", "2025-11-25"),
    ("conformance-2026", "2026-07-28"),
)
RUNS = (RELEASED, *BY_REVISION)

_SUITE_SECONDS = 120.0
_SCENARIO_MILLISECONDS = 20_000
_LISTED = re.compile(r"^ {2}- (\S+)(?: \[(.*)\])?$", re.MULTILINE)
_RUNNING = re.compile(r"^=== Running scenario: (\S+) ===$", re.MULTILINE)
_RESULT = re.compile(r"^server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z$")

Checks = list[dict[str, Any]]


@dataclass(frozen=True)
class Expectations:
    """What `conformance.toml` says."""

    applies: frozenset[str]
    fixtures: Mapping[str, str]
    undeclared: Mapping[str, str]
    checks: Mapping[str, str]

    @staticmethod
    def load() -> Expectations:
        """Reads the file beside this one."""
        raw = tomllib.loads(Path(__file__).with_name("conformance.toml").read_text())
        return Expectations(frozenset(raw["applies"]), raw["fixtures"], raw["undeclared"], raw["checks"])

    def all(self) -> list[str]:
        """Every scenario that is in the file, as often as it is there."""
        return [*self.applies, *self.fixtures, *self.undeclared]


async def check_lists(step: Step, bench: Bench) -> None:
    """The suites and the file know the same scenarios."""
    known = Expectations.load().all()
    doubled = sorted({name for name in known if known.count(name) > 1})
    step.check(not doubled, f"a scenario is in one part of conformance.toml only; in several: {doubled}")
    offered: set[str] = set()
    for package in {package for package, _ in RUNS}:
        done = await run(
            [*_suite(bench.tools, package), "list", "--server"], bench.service.env(), _SUITE_SECONDS, bench.folder
        )
        listed = {name for name, _ in _LISTED.findall(done.out)}
        step.check(bool(listed), f"{package} lists its scenarios", done.tail())
        offered |= listed
    new, gone = sorted(offered - set(known)), sorted(set(known) - offered)
    step.check(not new, f"every scenario of the suite is in conformance.toml; not there: {new}")
    step.check(not gone, f"every scenario in conformance.toml is in a suite; in none: {gone}")


async def run_suite(step: Step, bench: Bench, package: str, revision: str | None) -> None:
    """All scenarios of one version of the suite, for one revision if it can be told."""
    expectations = Expectations.load()
    results = bench.folder / f"{package}-{revision or 'all'}"
    options = ["--spec-version", revision, "--timeout", str(_SCENARIO_MILLISECONDS)] if revision else []
    done = await _run(bench, package, results, ["--suite", "all", *options])
    wanted = set(_RUNNING.findall(done.out))
    step.check(bool(wanted), f"{package} runs scenarios", done.tail())
    declared = await _declared(step, bench, revision or "2025-11-25")
    # The suite leaves extensions out of a run for a revision.
    for scenario, what in expectations.undeclared.items():
        if what.startswith("extensions:") and _has(declared, what) and (revision or "") >= "2026":
            wanted.add(scenario)
            await _run(bench, package, results, ["--scenario", scenario])
    by_scenario = _results(results)
    missing = sorted(wanted - set(by_scenario))
    step.check(not missing, f"every scenario that is run leaves a result; without one: {missing}", done.tail())
    for scenario, checks in sorted(by_scenario.items()):
        _judge(step, expectations, declared, scenario, checks)
        made = {f"{scenario}:{check['id']}" for check in checks}
        gone = sorted(name for name in expectations.checks if name.startswith(f"{scenario}:") and name not in made)
        step.check(not gone, f"{scenario} makes the checks that conformance.toml excuses; not: {gone}")


async def _run(bench: Bench, package: str, results: Path, options: list[str]) -> Done:
    """Runs scenarios. The exit status is not looked at: it is about the suite's own idea of what must pass."""
    async with authorizing(bench.service.mcp_url, bench.agents.tester.key) as url:
        command = [*_suite(bench.tools, package), "server", "--url", url, "--output-dir", str(results), *options]
        return await run(command, bench.service.env(), _SUITE_SECONDS, bench.folder)


def _suite(tools: Tools, package: str) -> list[str]:
    return tools.package(package, "dist/index.js")


def _results(folder: Path) -> dict[str, Checks]:
    found: dict[str, Checks] = {}
    for path in folder.glob("*/checks.json"):
        if named := _RESULT.match(path.parent.name):
            found[named[1]] = json.loads(path.read_text())
    return found


def _judge(step: Step, expectations: Expectations, declared: Mapping[str, Any], scenario: str, checks: Checks) -> None:
    applies = scenario in expectations.applies
    if capability := expectations.undeclared.get(scenario):
        applies = _has(declared, capability)
    if applies:
        passed = sum(check["status"] == "SUCCESS" for check in checks)
        step.check(passed > 0, f"{scenario} checks something", checks)
    for check in checks:
        name = f"{scenario}:{check['id']}"
        if name in expectations.checks:
            _judge_excused(step, name, check)
        elif applies or check["id"].startswith("wire-schema-"):
            step.check(check["status"] in ("SUCCESS", "INFO"), f"{name} ({check['description']})", _short(check))


def _judge_excused(step: Step, name: str, check: Mapping[str, Any]) -> None:
    """A check that the suite cannot make: it says so, or skips it."""
    untestable = bool((check.get("details") or {}).get("untestable"))
    excused = check["status"] == "SKIPPED" or untestable
    step.check(excused, f"{name} cannot be made, as conformance.toml says", _short(check))


def _short(check: Mapping[str, Any]) -> dict[str, Any]:
    return {key: check[key] for key in ("status", "errorMessage", "details") if check.get(key)}


async def _declared(step: Step, bench: Bench, revision: str) -> Mapping[str, Any]:
    """The capabilities that the server declares in a revision."""
    client = {"name": "clients", "version": "0"}
    if revision >= "2026":
        meta = {
            "io.modelcontextprotocol/protocolVersion": revision,
            "io.modelcontextprotocol/clientInfo": client,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": meta}}
        headers = {"MCP-Protocol-Version": revision, "Mcp-Method": "server/discover"}
    else:
        params = {"protocolVersion": revision, "capabilities": {}, "clientInfo": client}
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        headers = {}
    _, answer = await bench.service.request("POST", "/mcp", bench.agents.tester.key, body, headers)
    capabilities = (answer.get("result") or {}).get("capabilities")
    step.check(isinstance(capabilities, dict), f"the server declares capabilities in {revision}", answer)
    return capabilities or {}


def _has(declared: Mapping[str, Any], path: str) -> bool:
    """Whether something is declared: keys joined by colons, which no name of an extension has."""
    found: Any = declared
    for key in path.split(":"):
        if not isinstance(found, dict) or key not in found:
            return False
        found = found[key]
    return True
