"""Programs, run so that nothing of them is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    """What a program that ended left."""

    status: int
    out: str
    err: str

    def tail(self) -> str:
        """The end of its output, for a report."""
        return f"exit {self.status}\n{self.out[-3000:]}\n{self.err[-3000:]}".strip()


@dataclass(frozen=True)
class Tools:
    """Where `run` installed things."""

    folder: Path
    node: Path

    def package(self, name: str, script: str) -> list[str]:
        """The command that runs a script of an installed npm package."""
        path = self.folder / "node_modules" / name / script
        if not path.is_file():
            raise FileNotFoundError(f"package {name} has no {script}")
        return [str(self.node), str(path)]

    def python_script(self, name: str) -> str:
        """A command of an installed Python package."""
        path = self.folder / "venv" / "bin" / name
        if not path.is_file():
            raise FileNotFoundError(f"no {name} is installed")
        return str(path)

    def path(self) -> str:
        """A search path on which `node` is the one that was chosen."""
        return f"{self.node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


async def run(
    command: Sequence[str | Path], env: Mapping[str, str], seconds: float, cwd: Path, stdin: str = ""
) -> Done:
    """Runs a program to its end. When its time is up or nobody waits any more, it dies with all that it started."""
    child = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(env),
        cwd=cwd,
        start_new_session=True,
    )
    talk = asyncio.create_task(child.communicate(stdin.encode()))
    try:
        out, err = await asyncio.wait_for(asyncio.shield(talk), seconds)
    except BaseException as error:
        # Its own session, so its own group: this reaches what it started and nothing else.
        os.killpg(child.pid, signal.SIGKILL)
        out, err = await talk
        if isinstance(error, TimeoutError):
            done = Done(-signal.SIGKILL, _text(out), _text(err))
            raise TimeoutError(f"{' '.join(map(str, command[:3]))} took over {seconds:.0f} s: {done.tail()}") from None
        raise
    return Done(child.returncode or 0, _text(out), _text(err))


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
