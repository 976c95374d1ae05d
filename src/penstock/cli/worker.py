"""``penstock worker``: runs the consumers of any number of modules, in this process or in several, until a signal.

Kept light on purpose: neither rich nor any driver that the consumers do not use is imported here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from msgspec.structs import replace

from ..config import Settings
from ..errors import ConfigurationError
from ..worker import Worker
from . import codes, loop
from .child import Child, telling_why
from .dump import telling
from .link import inherited
from .locator import Found, locate
from .logs import configure
from .options import as_json, given_on_the_command_line, with_settings
from .terminal import say_json, table

if TYPE_CHECKING:
    from .supervisor import Supervisor

logger = logging.getLogger("penstock")

T = TypeVar("T")


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="MODULE[:ATTRIBUTE]...")
@click.option("--factory", is_flag=True, help="The attribute is a function that makes the consumers.")
@click.option("--connection", help="The connection of an App to work on.")
@click.option("--queues", help="The queues of an App to work on, separated by commas, the most urgent first.")
@click.option("--max-attempts", type=click.IntRange(min=1), help="For jobs of an App that do not say.")
@click.option("--timeout", type=float, help="Seconds that one job of an App may take.")
@click.option("--workers", type=click.IntRange(min=1), help="The same as --processes.")
@click.option("--dry-run", is_flag=True, help="Say what would run, connect to nothing.")
@as_json
@with_settings(
    "processes",
    "max_jobs",
    "max_memory",
    "drain",
    "log_level",
    "log_format",
    "scheduler",
    "uvloop",
    "metrics_port",
    "metrics_address",
)
def worker(
    settings: Settings,
    targets: tuple[str, ...],
    factory: bool,
    dry_run: bool,
    as_json: bool,
    workers: int | None,
    queues: str | None,
    **of_the_app: Any,
) -> int:
    """Run every Consumer found in the modules, until SIGTERM or SIGINT.

    An ATTRIBUTE may be a Consumer, a list of Consumers, a Worker, an App, or an object with .consumers. They bring
    their brokers along.

    SIGTERM and SIGINT: fetch no more, finish within --drain seconds, hand the rest back; a second one hands back at
    once. SIGTSTP and SIGUSR1: fetch no more, stay. SIGTTIN: log what is running. SIGHUP: stop; with --processes,
    replace the processes one after the other.
    """
    said = {name: value for name, value in of_the_app.items() if value is not None}
    if queues is not None:
        said["queues"] = tuple(name.strip() for name in queues.split(",") if name.strip())
    if workers is not None:
        settings = replace(settings, processes=workers)
    if dry_run:
        _show(locate(targets, factory=factory, said=said), as_json=as_json)
        return codes.OK
    line = inherited()
    if line is not None:
        with telling_why(line.sendall):
            serving = _prepared(settings, targets, said, factory=factory, pid=True)
        loop.run(_serve_as_child(serving, line, settings), uvloop=settings.uvloop)
        return codes.OK
    if settings.processes is not None:
        return _supervise(settings, settings.processes)
    if settings.max_jobs is not None or settings.max_memory is not None:
        raise ConfigurationError("max_jobs and max_memory need a supervisor; add --processes 1, or more")
    loop.run(_serve(_prepared(settings, targets, said, factory=factory), settings), uvloop=settings.uvloop)
    return codes.OK


def _prepared(
    settings: Settings, targets: tuple[str, ...], said: Mapping[str, Any], *, factory: bool, pid: bool = False
) -> Worker:
    found = locate(targets, factory=factory, said=said)
    configure(settings, pid=pid)
    serving = _worker(found, settings)
    loop.settle_memory()
    return serving


async def _serve(serving: Worker, settings: Settings) -> None:
    with _bound(_metrics(serving, settings), settings), _more_signals(serving):
        await serving.run()


async def _serve_as_child(serving: Worker, line: socket.socket, settings: Settings) -> None:
    with _more_signals(serving):
        await Child(serving, line, settings).serve()


@contextmanager
def _more_signals(serving: Worker) -> Generator[None]:
    """Beside those that every worker knows: a terminal that hangs up, and questions."""
    loop = asyncio.get_running_loop()
    heeded = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN  # else nohup wants it to live on
    if heeded:
        loop.add_signal_handler(signal.SIGHUP, serving.shut_down)
    with telling(serving):
        try:
            yield
        finally:
            if heeded:
                loop.remove_signal_handler(signal.SIGHUP)


def _supervise(settings: Settings, processes: int | Literal["auto"]) -> int:
    from .process import same_command, same_directory
    from .restarts import Terms
    from .supervisor import Supervisor

    configure(settings, pid=True)
    count = _processors() if processes == "auto" else processes
    terms = Terms(processes=count, max_jobs=settings.max_jobs, max_memory=settings.max_memory)

    async def serve() -> int:
        supervisor = Supervisor(terms, same_command(), same_directory())
        with _bound(_fleet_metrics(supervisor, settings), settings) as port:
            if port is not None:
                logger.info("metrics and health at http://%s:%d", settings.metrics_address, port)
            code = await supervisor.run()
        if code != codes.OK:
            click.echo(f"penstock: {supervisor.reason}", err=True)
        return code

    return asyncio.run(serve())


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _bound(metrics: AbstractContextManager[T], settings: Settings) -> Generator[T]:
    """Serve metrics; an address that cannot be had is a matter of configuration."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(metrics)
        except OSError as error:
            where = f"{settings.metrics_address}:{settings.metrics_port}"
            raise ConfigurationError(f"metrics cannot be served at {where}: {error.strerror}") from error
        yield made


def _fleet_metrics(supervisor: Supervisor, settings: Settings) -> AbstractContextManager[int | None]:
    if settings.metrics_port is None:
        return nullcontext()
    from ..contrib.prometheus import fleet_exporter

    address = settings.metrics_address
    return fleet_exporter(supervisor.families, lambda: supervisor.ready, settings.metrics_port, address=address)


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
