"""LISTEN on PostgreSQL: an accelerator on a connection of its own.

While it is up, an idle worker hardly asks; while it is not, workers poll. Whenever it comes back everybody looks once,
for what was announced meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Any

from ...clients.sql import SqlOptions
from ...clients.sql_libraries import connect_postgresql
from .arrivals import Arrivals

_CHECK = 15.0  # seconds between two proofs that the connection still carries something
_PAUSES = (0.2, 15.0)  # between tries to come back: the first, and the longest


class Listener:
    """Rings the bell for what other processes announce. ``up``: whether it hears anything."""

    def __init__(self, options: SqlOptions, channel: str, bell: Arrivals) -> None:
        self._options, self._channel, self._bell = options, channel, bell
        self._task: asyncio.Task[None] | None = None
        self.up = False

    def start(self) -> None:
        """Begin, unless it runs."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """End. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _run(self) -> None:
        pause, longest = _PAUSES
        while True:
            try:
                await self._listen()
            except Exception:  # noqa: BLE001 -- whatever it is: polling goes on, and so do the tries
                pause = min(pause * 2, longest)
            else:
                pause = _PAUSES[0]
            await asyncio.sleep(pause)

    async def _listen(self) -> None:
        server = self._options.server
        if server is None:
            return
        connection = await connect_postgresql(self._options, server)
        gone = asyncio.Event()
        try:
            connection.add_termination_listener(partial(_set, gone))
            await asyncio.wait_for(connection.add_listener(self._channel, self._heard), self._options.timeout)
            self.up = True
            self._bell.ring()
            while not gone.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(gone.wait(), _CHECK)
                    break
                await connection.execute("SELECT 1", timeout=self._options.timeout)
        finally:
            self.up = False
            connection.terminate()

    def _heard(self, _connection: Any, _pid: int, _channel: str, about: object) -> None:
        self._bell.ring([str(about)] if about else None)


def _set(gone: asyncio.Event, _connection: object) -> None:
    gone.set()
