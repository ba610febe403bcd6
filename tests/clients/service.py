"""The server under test: a fresh data folder, the real binary, its agents, and plain HTTP to it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tools import run

# The first start on a data folder compiles the policy component.
_START_SECONDS = 180.0
_STOP_SECONDS = 20.0
_COMMAND_SECONDS = 60.0
_REQUEST_SECONDS = 30.0


@dataclass(frozen=True)
class Agent:
    """An agent and its key."""

    name: str
    key: str


class Service:
    """`portreeve serve` on a free port. Whoever starts it stops it."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.binary = binary
        self.data = folder / "data"
        self.log = folder / "serve.log"
        self.url = ""
        self._home = folder / "home"
        self._ready = folder / "ready.json"
        self._child: asyncio.subprocess.Process | None = None

    @property
    def mcp_url(self) -> str:
        """Where MCP is spoken."""
        return f"{self.url}/mcp"

    async def start(self) -> None:
        """Starts it and waits until it serves."""
        self._home.mkdir()
        options = ["--listen", "127.0.0.1:0", "--ready-file", str(self._ready), "--data", str(self.data)]
        with self.log.open("wb") as log:
            self._child = await asyncio.create_subprocess_exec(
                self.binary, "serve", *options, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=self.env()
            )
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            if self._child.returncode is not None:
                raise RuntimeError(f"`serve` ended with {self._child.returncode}:\n{self.log_tail()}")
            try:
                self.url = json.loads(self._ready.read_text())["url"].rstrip("/")
                return
            except (FileNotFoundError, json.JSONDecodeError):
                await asyncio.sleep(0.05)
        raise TimeoutError(f"`serve` was not ready after {_START_SECONDS:.0f} s:\n{self.log_tail()}")

    async def stop(self) -> int | None:
        """Ends the server as an operator would; kills it if it does not end. Its exit status."""
        child, self._child = self._child, None
        if child is None:
            return None
        if child.returncode is not None:
            return child.returncode
        child.terminate()
        try:
            return await asyncio.wait_for(child.wait(), _STOP_SECONDS)
        except TimeoutError:
            child.kill()
            await child.wait()
            raise RuntimeError(f"`serve` did not stop within {_STOP_SECONDS:.0f} s of SIGTERM") from None

    def log_tail(self) -> str:
        """The end of what the server logged."""
        return self.log.read_text(errors="replace")[-3000:]

    def env(self, **more: str) -> dict[str, str]:
        """The environment of everything that is started: nothing of Portreeve's from outside, a HOME of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PORTREEVE_", "MCP_"))}
        return {**kept, "HOME": str(self._home), "NO_COLOR": "1", **more}

    def admin(self) -> Agent:
        """The first admin, whose key the server keeps in the data folder."""
        return Agent("admin", (self.data / "admin.key").read_text().strip())

    async def add_agent(self, name: str, profile: str) -> Agent:
        """Registers an agent with the command line."""
        options = ["--type", "claude_code", "--profile", profile, "--json", "--data", str(self.data)]
        command = [str(self.binary), "agent", "add", name, *options]
        done = await run(command, self.env(), _COMMAND_SECONDS, self._home)
        if done.status != 0:
            raise RuntimeError(f"`agent add {name}`: {done.tail()}")
        return Agent(name, json.loads(done.out)["key"])

    def stdio(self, agent: Agent) -> list[str]:
        """The command that speaks MCP over stdio as an agent of the data folder."""
        return [str(self.binary), "mcp", "--agent", agent.name, "--data", str(self.data)]

    def stdio_before_server(self) -> list[str]:
        """The command that speaks MCP over stdio for the running server, as whoever `PORTREEVE_API_KEY` belongs to."""
        return [str(self.binary), "mcp", "--url", self.url]

    async def request(
        self,
        method: str,
        path: str,
        key: str | None,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """One plain request: its status and its JSON, alone or as the last event of a stream; `{}` if it is none."""
        own = {"accept": "application/json, text/event-stream"}
        if key is not None:
            own["authorization"] = f"Bearer {key}"
        async with httpx2.AsyncClient(timeout=_REQUEST_SECONDS) as client:
            answer = await client.request(method, self.url + path, json=body, headers=own | (headers or {}))
        events = [line.removeprefix("data:") for line in answer.text.splitlines() if line.startswith("data:")]
        try:
            value = json.loads(events[-1] if events else answer.text)
        except ValueError:
            value = None
        return answer.status_code, value if isinstance(value, dict) else {}
