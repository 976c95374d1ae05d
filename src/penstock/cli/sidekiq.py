"""``penstock sidekiq``: a worker for the queues of a Sidekiq application, told what to do as Ruby's own is."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigurationError
from ..version import __version__
from . import codes, loop
from .dump import telling
from .notify import notify

if TYPE_CHECKING:
    from ..sidekiq.config import Config
    from ..sidekiq.runner import Runner

NOISY = ("asyncio",)


@click.command()
@click.option("-c", "--concurrency", type=int, metavar="INT", help="Jobs at once. Default: 5.")
@click.option("-e", "--environment", metavar="ENV", help="Section of the configuration file.")
@click.option("-g", "--tag", metavar="TAG", help="What this process is called where processes are listed.")
@click.option("-q", "--queue", "queues", multiple=True, metavar="QUEUE[,WEIGHT]", help="A queue to read; repeatable.")
@click.option(
    "-r", "--require", "required", multiple=True, metavar="MODULE|FILE", help="What defines the jobs; repeatable."
)
@click.option("-t", "--timeout", type=float, metavar="SECONDS", help="What running jobs get at a stop. Default: 25.")
@click.option("-v", "--verbose", is_flag=True, help="Log debugging lines too.")
@click.option("-C", "--config", "path", type=click.Path(path_type=Path), metavar="FILE", help="YAML, JSON or TOML.")
@click.option("-V", "--version", "show_version", is_flag=True, help="Say the version and end.")
def sidekiq(
    *,
    concurrency: int | None,
    environment: str | None,
    tag: str | None,
    queues: tuple[str, ...],
    required: tuple[str, ...],
    timeout: float | None,
    path: Path | None,
    verbose: bool,
    show_version: bool,
) -> int:
    """Run the jobs of a Sidekiq application, beside Ruby's own workers or instead of them.

    Without -C, config/sidekiq.yml (.json, .toml) is read if it is there. What the command line says stands above the
    file, and code in configure_server blocks above both.

    SIGTERM and SIGINT: take no more jobs, finish within the timeout, give the rest back. SIGTSTP: take no more jobs.
    SIGTTIN: log what is running. The same may be asked for in Sidekiq's web pages.
    """
    if show_version:
        click.echo(f"penstock {__version__}, for the schema of Sidekiq 8")
        return codes.OK
    from ..sidekiq.setup import become_server

    config = become_server()
    _fill(config, path, environment)
    given: dict[str, Any] = {"concurrency": concurrency, "tag": tag, "timeout": timeout, "queues": list(queues) or None}
    config.update({name: value for name, value in given.items() if value is not None})
    modules = required or tuple(_listed(config))
    if not modules:
        raise click.UsageError("say what defines the jobs: -r myapp.jobs, or require: in the configuration file")
    _log(verbose=verbose or config.verbose or os.environ.get("DEBUG_INVOCATION") == "1")
    if config.ignored:
        logging.getLogger("penstock.sidekiq").warning("the configuration file has unknown names: %s", config.ignored)
    for name in modules:
        _require(name)
    from ..sidekiq.runner import Runner

    runner = Runner(config)
    loop.settle_memory()
    loop.run(_serve(runner), uvloop=True)
    return codes.OK


def _fill(config: Config, path: Path | None, environment: str | None) -> None:
    """From the environment and the file."""
    from ..sidekiq import settings

    config.environment = settings.environment(environment)
    threads = os.environ.get("RAILS_MAX_THREADS")
    if threads is not None:
        if not threads.isdecimal():
            raise ConfigurationError(f"RAILS_MAX_THREADS should be a whole number, the jobs at once, got {threads!r}")
        config.concurrency = int(threads)
    path = path or settings.find([Path()])
    if path is not None:
        config.update(settings.load(path, config.environment))


def _listed(config: Config) -> list[str]:
    value = config.require
    return [value] if isinstance(value, str) else list(value)


def _require(name: str) -> None:
    """Import a module by its name, or a file by its path."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    path = Path(name)
    if path.suffix != ".py":
        if path.is_dir():
            raise ConfigurationError(f"-r {name} is a folder; name the module or the file in it that imports the jobs")
        import_module(name)
        return
    if not path.is_file():
        raise ConfigurationError(f"-r {name}: there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"-r {name} cannot be imported")
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _log(*, verbose: bool) -> None:
    """Sidekiq's own lines, on stdout. A command line owns its process, so this is the root logger."""
    from ..sidekiq.formatters import default_formatter

    handler: logging.StreamHandler[Any] = logging.StreamHandler(sys.stdout)
    handler.setFormatter(default_formatter(os.environ))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)


async def _serve(runner: Runner) -> None:
    with telling(runner.worker), _watched(runner):
        runner.config.on("shutdown", lambda: notify("STOPPING=1"))
        await runner.run()


@contextmanager
def _watched(runner: Runner) -> Generator[None]:
    """Tell systemd when jobs are being taken, and that the loop still turns if it wants to know."""
    task = asyncio.create_task(_tell(runner))
    try:
        yield
    finally:
        task.cancel()


async def _tell(runner: Runner) -> None:
    await runner.started.wait()
    notify("READY=1")
    period = _watchdog()
    while period:
        notify("WATCHDOG=1")
        await asyncio.sleep(period)


def _watchdog() -> float:
    """Seconds between two signs of life; 0 if nobody wants them."""
    wanted, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not wanted.isdecimal() or int(wanted) < 1_000_000 or pid not in {None, str(os.getpid())}:
        return 0.0
    return int(wanted) / 2_000_000
