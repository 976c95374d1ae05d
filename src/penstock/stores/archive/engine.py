"""What there is while an archive is in use: a thread with its loop, the connection, and the writer on it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable

from ...clients.loop_thread import LoopThread
from ...clients.sql import SqliteRunner, SqlOptions, Transactions
from ...clients.sql_server import DIALECTS, ServerRunner
from ...config import mask_url
from ...errors import InvalidURL
from .writer import Writer

logger = logging.getLogger("penstock")

FAREWELL = 5.0  # seconds that hanging up may take


class Engine:
    """Made by the first use, ended by ``close``; a fork has none."""

    def __init__(self, make: Callable[[], Transactions], build: Callable[[Transactions], Writer]) -> None:
        self.thread = LoopThread("penstock-archive")
        self.runner, self.writer, self._task = self.thread.submit(_begun(make, build)).result()

    def flushed(self, within: float) -> bool:
        """Whether everything is written ``within`` seconds. Blocks."""
        future = self.writer.buffer.written(patient=True)
        self.writer.hurry()
        try:
            future.result(within)
        except concurrent.futures.TimeoutError:
            return False
        return True

    def end(self) -> None:
        """Hang up. Blocks, not for long."""

        async def hang_up() -> None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self.runner.close()

        try:
            self.thread.submit(hang_up()).result(FAREWELL)
        except concurrent.futures.TimeoutError:
            logger.warning("the archive's connection does not end")
        self.thread.end(1.0)


async def _begun(
    make: Callable[[], Transactions], build: Callable[[Transactions], Writer]
) -> tuple[Transactions, Writer, asyncio.Task[None]]:
    made = make()
    writer = build(made)
    return made, writer, asyncio.create_task(writer.run())


def runner(url: str, timeout: float) -> tuple[str, Callable[[], Transactions]]:
    """The dialect of an address, and what makes its runner. No I/O. Raises ``InvalidURL``, ``MissingExtra``."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme == "sqlite":
        options = SqlOptions.from_url(url, timeout=timeout)
        return "sqlite", lambda: SqliteRunner(options, lambda _: None)  # tables are made when they are asked for
    if scheme in DIALECTS:
        ServerRunner(url, timeout=timeout)
        return DIALECTS[scheme], lambda: ServerRunner(url, timeout=timeout)
    raise InvalidURL(
        f"an archive is at sqlite:///file.db, postgresql://user@host/database or mysql://…, got {mask_url(url)!r}"
    )
