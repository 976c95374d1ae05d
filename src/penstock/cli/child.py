"""A worker under a supervisor: it works as any other, tells how it is, and stops when nobody listens any more.

1. Why it cannot start goes to the supervisor, which says it once for all its children.
2. Readiness is told when it changes; jobs, memory and metrics once a second.
3. The end of the line is that of the supervisor: drain and leave. An orphan that worked on would be in nobody's hands.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import click

from ..config import Settings
from ..worker import Worker, resident
from .link import Duty, Failed, Report, packed, received

if TYPE_CHECKING:
    from ..contrib.prometheus import PrometheusMetrics

logger = logging.getLogger("penstock")

LOOK = 0.1  # seconds between two looks at readiness
BEAT = 1.0  # seconds between two full reports
PATIENCE = 5.0  # seconds for the last report


@contextmanager
def telling_why(say: Callable[[bytes], object]) -> Generator[None]:
    """Tell the supervisor of an error inside the block, and end with its exit code without another word."""
    from .root import code_of, describe

    try:
        yield
    except (click.ClickException, click.exceptions.Exit):
        raise
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        try:
            say(packed(Failed(describe(error))))
        except OSError:
            raise error from None  # nobody listens: say it as any command does
        raise click.exceptions.Exit(code_of(error)) from error


class Child:
    """See the module."""

    def __init__(self, worker: Worker, line: socket.socket, settings: Settings) -> None:
        self._worker, self._line, self._settings = worker, line, settings
        self._metrics: PrometheusMetrics | None = None
        self._sampling: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Run the worker until a signal or the end of the line."""
        reader, writer = await asyncio.open_unix_connection(sock=self._line)
        with ExitStack() as stack:
            if self._settings.metrics_port is not None:
                from ..contrib.prometheus import collecting

                self._metrics = stack.enter_context(collecting(self._worker))
            # Both begin when ``run`` first waits: by then its signal handlers are there, which the first report says
            tasks = [asyncio.create_task(self._hear(reader)), asyncio.create_task(self._tell(writer))]
            try:
                with telling_why(writer.write):
                    await self._worker.run()
            finally:
                self._sample(on=False)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                with suppress(OSError, TimeoutError):
                    await asyncio.wait_for(self._take_leave(writer), PATIENCE)

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        while (message := await received(reader)) is not None:
            if isinstance(message, Duty):
                self._sample(on=message.sample)
        logger.error("the supervisor is gone; stopping")
        self._worker.shut_down()

    def _sample(self, *, on: bool) -> None:
        if self._sampling is not None:
            self._sampling.cancel()
            self._sampling = None
        if on and self._metrics is not None:
            self._sampling = asyncio.create_task(self._metrics.sample_forever(self._worker))

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        told, due = None, 0.0
        now = asyncio.get_running_loop().time
        with suppress(OSError):  # the line has ended: ``_hear`` sees to that
            while True:
                full = now() >= due
                if full or told != self._worker.ready:
                    told = self._worker.ready
                    due = now() + BEAT if full else due
                    await self._send(writer, full=full)
                await asyncio.sleep(LOOK)

    async def _send(self, writer: asyncio.StreamWriter, *, full: bool) -> None:
        worker = self._worker
        report = Report(
            drain=worker.drain,
            ready=worker.ready,
            jobs=sum(consumer.counters.processed for consumer in worker.consumers),
            memory=resident(),
            sampled=self._sampling is not None,
            metrics=self._metrics.families() if full and self._metrics is not None else None,
        )
        writer.write(packed(report))
        await writer.drain()

    async def _take_leave(self, writer: asyncio.StreamWriter) -> None:
        await self._send(writer, full=True)
        writer.close()
        await writer.wait_closed()
