"""``penstock retry-daemon``: the scheduler of one stream as a process of its own, until a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence

import click

from ..app import open_broker
from ..config import Settings
from ..inspector import Inspector
from ..retry_daemon import RetryDaemon
from ..sharding import shard_names
from ..signals import heeding
from .inspection import inspect
from .logs import configure
from .options import with_settings

logger = logging.getLogger("penstock")


@click.command("retry-daemon")
@click.argument("stream")
@click.option("--delayed", metavar="NAME", help="Where its delayed messages are, if not at the usual place.")
@click.option("--shards", type=click.IntRange(min=1), default=1, show_default=True, help="Parts the stream is in.")
@click.option("--max-batch", type=click.IntRange(min=1), default=256, show_default=True, help="Messages of one move.")
@click.option(
    "--tick", type=click.FloatRange(min=0.001), default=0.25, show_default=True, help="Seconds between looks."
)
@click.option("--jitter", type=click.FloatRange(0, 1), default=0.2, show_default=True, help="Share of it that varies.")
@click.option("--dry-run", is_flag=True, help="Say how many messages wait; move nothing.")
@with_settings("broker", "log_level", "log_format")
def retry_daemon(
    settings: Settings,
    *,
    stream: str,
    delayed: str | None,
    shards: int,
    max_batch: int,
    tick: float,
    jitter: float,
    dry_run: bool,
) -> None:
    """Move due messages and retries of STREAM back to it, until SIGTERM or SIGINT.

    Workers do that themselves; this is for fleets in which no worker may be running, or all have --no-scheduler.
    """
    if dry_run:
        if delayed is not None:
            raise click.UsageError("--dry-run looks at the usual place only; leave --delayed out")
        waiting = inspect(settings, lambda inspector: _delayed(inspector, shard_names(stream, shards)))
        click.echo(f"{waiting} messages of {stream} are delayed; nothing was moved")
        return
    configure(settings)
    daemon = RetryDaemon(
        open_broker(settings.required_broker()),
        stream,
        shards=shards,
        delayed=delayed,
        max_batch=max_batch,
        tick=tick,
        jitter=jitter,
    )
    asyncio.run(_serve(daemon, stream))


async def _delayed(inspector: Inspector, streams: Sequence[str]) -> int:
    return sum(stats.delayed for stats in await inspector.stats(*streams))


async def _serve(daemon: RetryDaemon, stream: str) -> None:
    wanted_down = asyncio.Event()
    with heeding({signal.SIGTERM: wanted_down.set, signal.SIGINT: wanted_down.set}):
        async with daemon:
            logger.info("retry daemon started: %s", stream)
            await wanted_down.wait()
    logger.info("retry daemon stopped")
