"""Schemathesis over the server's own OpenAPI document: what the document promises is what the server does.

Which checks are made, and how many requests are made up, is in `schemathesis.toml`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench import Bench
from report import Step
from service import Agent
from tools import run as run_program

_ALL_SECONDS = 150.0
# Far fewer than the document has, far more than a broken one would.
_LEAST_OPERATIONS = 20
# Warnings that say that the document is wrong. The others are about data that was made up.
_WARNINGS = ("base_url_mismatch", "missing_deserializer", "unresolvable_reference", "unsupported_regex")

_BLOCK = re.compile(r"^_{3,} (.+?) _{3,}$", re.MULTILINE)
_FINDING = re.compile(r"^- ST\d+ .*?(?=^\[\d+\] |^Reproduce with|\Z)", re.MULTILINE | re.DOTALL)


async def run(step: Step, bench: Bench, agent: Agent) -> None:
    """All operations with one agent's key."""
    status, document = await bench.service.request("GET", "/openapi.json", None)
    version = str(document.get("openapi"))
    step.check(status == 200 and version.startswith("3.1."), "an OpenAPI 3.1 document is served", [status, version])
    own = bench.folder / f"schemathesis-{agent.name}"
    own.mkdir()
    summary = own / "summary.json"
    here = Path(__file__).parent
    command = [bench.tools.python_script("schemathesis"), "--config-file", str(here / "schemathesis.toml"), "run"]
    command += [f"{bench.service.url}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {agent.key}", "--no-color"]
    command += ["--report", "json", "--report-json-path", str(summary)]
    hooks = {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(here)}
    done = await run_program(command, bench.service.env(**hooks), _ALL_SECONDS, own)
    if step.check(summary.is_file(), "Schemathesis leaves a summary", done.tail()):
        _judge(step, json.loads(summary.read_text()), done.out)
    step.check(done.status == 0, f"Schemathesis exits with 0, not {done.status}")


def _judge(step: Step, summary: dict[str, Any], output: str) -> None:
    counts = summary["operations"]
    step.check(summary["complete"] is True, "the run is complete", summary["stop_reason"])
    step.check(counts["total"] >= _LEAST_OPERATIONS, "the document has the operations of the service", counts)
    step.check(counts["tested"] == counts["total"], "every operation of the document is tested", counts)
    step.check(not summary["errors"], "no operation is beyond testing", summary["errors"])
    for name in _WARNINGS:
        found = summary["warnings"].get(name)
        step.check(not found, f"nothing warns of {name}", found)
    for found, operations in _findings(output).items():
        step.fail(f"{', '.join(operations)}: as documented", found)


def _findings(output: str) -> dict[str, list[str]]:
    """What it found, each with the operations that it was found at: one mistake is often made everywhere."""
    parts = _BLOCK.split(output.partition("= SUMMARY =")[0])[1:]
    operations: dict[str, list[str]] = defaultdict(list)
    examples: dict[str, str] = {}
    for operation, block in zip(parts[::2], parts[1::2], strict=True):
        for finding in _FINDING.findall(block) or [block]:
            operations[finding].append(operation)
            examples.setdefault(finding, block)
    return {examples[finding].strip(): names for finding, names in operations.items()}
