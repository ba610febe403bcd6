"""A stand-in for a server that adds a key to every request: the conformance suite has no option for headers.

It reads the head of a request, puts the key in, and from then on only passes bytes, so that responses stream. One
request per connection, asked for with `Connection: close`, keeps it from having to read any body.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

_MOST_HEAD = 64 * 1024
_REPLACED = (b"authorization", b"connection", b"keep-alive", b"proxy-connection")


@asynccontextmanager
async def authorizing(url: str, key: str) -> AsyncIterator[str]:
    """Yields a URL on a free port that stands for `url` to whoever has no key."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    own = ""
    under_way: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            answer, upstream = await asyncio.open_connection(host, port)
            ends.append(upstream)
            upstream.write(_with_key(head, key, own, f"{host}:{port}"))
            # Whichever side ends first ends both: a client that goes away cancels its request.
            pumps = [asyncio.create_task(_pump(reader, upstream)), asyncio.create_task(_pump(answer, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # The client sees a connection that ends.
        finally:
            for end in ends:
                end.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=_MOST_HEAD)
    own = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield f"http://{own}{parts.path}"
    finally:
        server.close()
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def _with_key(head: bytes, key: str, own: str, theirs: str) -> bytes:
    """The head as if it had been sent to the server itself, with the key."""
    line, *headers = head[:-4].split(b"\r\n")
    kept = [line]
    for header in headers:
        name, _, value = header.partition(b":")
        if name.strip().lower() in _REPLACED:
            continue
        # Only the stand-in's own name is replaced: the suite also sends foreign ones, which must be refused.
        if value.strip() in (own.encode(), f"http://{own}".encode()):
            value = value.replace(own.encode(), theirs.encode())
        kept.append(name + b":" + value)
    kept += [f"Authorization: Bearer {key}".encode(), b"Connection: close"]
    return b"\r\n".join(kept) + b"\r\n\r\n"


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(64 * 1024):
        sink.write(data)
        await sink.drain()
