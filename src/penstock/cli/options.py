"""Options that commands share: those that are settings, and ``--json``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..config import Settings, load

_SECONDS = click.FloatRange(min=0)


def _count(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | str | None:
    """A whole number, at least 1, or ``auto``."""
    if value is None or value == "auto":
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"expected a whole number, at least 1, or auto; got {value!r}")
    return int(value)


# Each defaults to None, "not given": the environment and the file come before the default
_SETTINGS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "broker": click.option(
        "-b", "--broker", metavar="URL", help="Broker, such as sqlite:///jobs.db or redis://localhost:6379."
    ),
    "drain": click.option(
        "--drain", type=_SECONDS, metavar="SECONDS", help="What running handlers get when the worker stops (25)."
    ),
    "log_level": click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
        help="Least important level that is logged (info).",
    ),
    "log_format": click.option(
        "--log-format", type=click.Choice(["text", "json"]), help="Log lines for people or for machines (text)."
    ),
    "scheduler": click.option(
        "--scheduler/--no-scheduler",
        default=None,
        help="Run a scheduler inside, or leave it to retry daemons (run it).",
    ),
    "uvloop": click.option("--uvloop/--no-uvloop", default=None, help="Use uvloop where it is installed (uvloop)."),
    "metrics_port": click.option(
        "--metrics-port", type=click.IntRange(0, 65535), metavar="PORT", help="Serve Prometheus metrics at this port."
    ),
    "metrics_address": click.option(
        "--metrics-address", metavar="ADDRESS", help="Where to listen for the metrics (127.0.0.1)."
    ),
    "processes": click.option(
        "--processes",
        metavar="COUNT|auto",
        callback=_count,
        help="Run this many worker processes under a supervisor, or auto: as many as there are processors (no supervisor).",
    ),
    "max_jobs": click.option(
        "--max-jobs",
        type=click.IntRange(min=1),
        metavar="COUNT",
        help="Replace a process by a fresh one after about this many jobs, never more than a second late.",
    ),
    "max_memory": click.option(
        "--max-memory",
        type=click.FloatRange(min=0, min_open=True),
        metavar="MIB",
        help="Replace a process by a fresh one when it holds this much resident memory, in MiB.",
    ),
}

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def with_settings(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the options of these settings; it is called with the ``Settings`` first, from all sources."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(print_config: bool, **given: Any) -> Any:
            explicit = {name: value for name in names if (value := given.pop(name)) is not None}
            file = click.get_current_context().find_object(str)
            loaded = load(explicit, file=Path(file) if file else None)
            if print_config:
                click.echo(loaded.describe())
                return None
            return command(loaded.settings, **given)

        show = click.option("--print-config", is_flag=True, help="Show all settings and whence they are; end.")
        decorated: Callable[..., Any] = show(call)
        for name in reversed(names):
            decorated = _SETTINGS[name](decorated)
        return decorated

    return decorate


def given_on_the_command_line(name: str) -> bool:
    """Whether the user typed this option of the running command."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


__all__ = ["Settings", "as_json", "given_on_the_command_line", "with_settings"]
