"""A TCP proxy that misbehaves on request: between a client and a real server, it plays the bad network.

    async with FaultProxy("127.0.0.1", 6379) as proxy:
        broker = open_broker(f"redis://127.0.0.1:{proxy.port}/0")
        proxy.blackhole()   # connected, but nothing comes through
        proxy.heal()

What has been read from one side while nothing comes through is passed on after ``heal``, as a network does that has
only been slow. Each proxy listens on a port of its own, on loopback, and on the same one again after ``refuse``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Self

CHUNK = 65536


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.closed_to_client = False

    def cut(self) -> None:
        self.client.close()
        self.server.close()

    def reset(self) -> None:
        """RST instead of FIN: what was on the way is gone, the other side gets an error."""
        for writer in (self.client, self.server):
            connection: socket.socket | None = writer.get_extra_info("socket")
            if connection is not None and connection.fileno() >= 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class FaultProxy:
    """Stands before ``host:port``. All faults concern every connection, those to come included, until ``heal``."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._links: set[_Link] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._latency = 0.0
        self._rate = float("inf")
        self.port = 0
        self.accepted = 0

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.refuse()
        await asyncio.sleep(0)  # what has been accepted by now has its task in the next turn of the loop
        while self._pumps:
            for pump in list(self._pumps):
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._links)

    async def listen(self) -> None:
        """Accept connections, again after ``refuse``."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    # ---------------------------------------------------------------------------------------------------------- faults

    def cut(self) -> None:
        """Close every connection, in both directions, as a restarting server does. New ones are welcome."""
        for link in list(self._links):
            link.cut()

    def reset(self) -> None:
        """Break every connection, as a crashed router does."""
        for link in list(self._links):
            link.reset()

    def half_close(self) -> None:
        """Tell every client that the server has no more to say, and go on taking what the client says."""
        for link in list(self._links):
            link.closed_to_client = True
            with contextlib.suppress(OSError):  # it is gone already
                link.client.write_eof()

    def refuse(self) -> None:
        """Break every connection and accept none, as a dead server does. ``listen`` ends it."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()

    def blackhole(self) -> None:
        """Let nothing through, and say so to nobody."""
        self._flowing.clear()

    def slow(self, bytes_per_second: float) -> None:
        """Let no more than that through, for each connection and direction."""
        self._rate = bytes_per_second

    def latency(self, seconds: float) -> None:
        """Let each piece of data come later."""
        self._latency = seconds

    def heal(self) -> None:
        """Let everything through, at once. What is cut stays cut."""
        self._flowing.set()
        self._rate, self._latency = float("inf"), 0.0

    # ----------------------------------------------------------------------------------------------------------- inside

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)
        self.accepted += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        except BaseException:
            writer.transport.abort()
            raise
        link = _Link(writer, far_writer)
        self._links.add(link)
        try:
            await asyncio.gather(self._pump(link, reader, far_writer), self._pump(link, far_reader, writer))
        except (OSError, asyncio.CancelledError):
            link.reset()
        finally:
            self._links.discard(link)
            link.cut()

    async def _pump(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until its end, which is passed on."""
        while data := await reader.read(CHUNK if self._rate == float("inf") else max(1, int(self._rate / 20))):
            if writer is link.client and link.closed_to_client:
                continue  # the client has been told that there is no more
            await self._flowing.wait()
            if self._latency:
                await asyncio.sleep(self._latency)
            if self._rate != float("inf"):
                await asyncio.sleep(len(data) / self._rate)
            writer.write(data)
            await writer.drain()
        await self._flowing.wait()
        if writer.can_write_eof():
            writer.write_eof()
