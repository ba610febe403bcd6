"""What every part of the suite works with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service import Agent, Service
from tools import Tools


@dataclass(frozen=True)
class Agents:
    """Who takes part: one that works, one that only reads, and one that is in the way."""

    tester: Agent
    reader: Agent
    holder: Agent


@dataclass(frozen=True)
class Bench:
    """The server with its agents, the installed programs, and a folder for what they write."""

    tools: Tools
    service: Service
    agents: Agents
    folder: Path
