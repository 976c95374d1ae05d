"""``penstock worker``: runs the consumers of any number of modules in this process, until a signal.

Kept light on purpose: neither rich nor any driver that the consumers do not use is imported here.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import click

from ..config import Settings
from ..errors import ConfigurationError
from ..worker import Worker
from .locator import Found, locate
from .logs import configure
from .options import as_json, given_on_the_command_line, with_settings
from .terminal import say_json, table

logger = logging.getLogger("penstock")

# Allocations between two looks of the garbage collector at young objects, instead of 700: a fetched batch outlives
# such a look anyway. No-op jobs run 15 to 50 % faster so; more than this gains nothing.
YOUNG = 10_000


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="MODULE[:ATTRIBUTE]...")
@click.option("--factory", is_flag=True, help="The attribute is a function that makes the consumers.")
@click.option("--dry-run", is_flag=True, help="Say what would run, connect to nothing.")
@as_json
@with_settings("drain", "log_level", "log_format", "scheduler", "uvloop", "metrics_port", "metrics_address")
def worker(settings: Settings, targets: tuple[str, ...], factory: bool, dry_run: bool, as_json: bool) -> None:
    """Run every Consumer found in the modules, until SIGTERM or SIGINT.

    An ATTRIBUTE may be a Consumer, a list of Consumers, a Worker, or an object with .consumers. They bring their
    brokers along.

    SIGTERM and SIGINT: fetch no more, finish within --drain seconds, hand the rest back; a second one hands back at
    once. SIGTSTP and SIGUSR1: fetch no more, stay.
    """
    found = locate(targets, factory=factory)
    if dry_run:
        _show(found, as_json=as_json)
        return
    configure(settings)
    serving = _worker(found, settings)
    _settle_memory()
    with asyncio.Runner(loop_factory=_loop_factory(settings)) as runner:
        runner.run(_serve(serving, settings))


async def _serve(serving: Worker, settings: Settings) -> None:
    with ExitStack() as stack:
        try:
            stack.enter_context(_metrics(serving, settings))
        except OSError as error:
            where = f"{settings.metrics_address}:{settings.metrics_port}"
            raise ConfigurationError(f"metrics cannot be served at {where}: {error.strerror}") from error
        await serving.run()


def _worker(found: Found, settings: Settings) -> Worker:
    if not isinstance(found, Worker):
        return Worker(*found, drain=settings.drain, scheduler=settings.scheduler)
    typed = [name for name in ("drain", "scheduler") if given_on_the_command_line(name)]
    if typed:
        raise click.UsageError(f"a Worker object brings its own {' and '.join(typed)}; name its Consumers instead")
    return found


def _metrics(serving: Worker, settings: Settings) -> AbstractContextManager[Any]:
    if settings.metrics_port is None:
        return nullcontext()
    from ..contrib.prometheus import exporter

    return exporter(serving, settings.metrics_port, address=settings.metrics_address)


def _loop_factory(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not settings.uvloop:
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _settle_memory() -> None:
    """What has been imported by now stays: the collector need not look at it again, nor as often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])


def _show(found: Found, *, as_json: bool) -> None:
    consumers = found.consumers if isinstance(found, Worker) else found
    rows: list[tuple[object, ...]] = [
        (
            consumer.subscription.source,
            consumer.subscription.group,
            consumer.concurrency,
            consumer.subscription.lease,
            consumer.broker.url,
        )
        for consumer in consumers
    ]
    names = ("stream", "group", "concurrency", "lease", "broker")
    if as_json:
        say_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        table([name.upper() for name in names], rows)
