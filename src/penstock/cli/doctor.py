"""``penstock doctor``: whether this installation and this server keep what the guarantees promise."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import click
import msgspec

from ..app import open_broker
from ..broker import Finding
from ..config import Settings, mask_url
from ..inspector import Inspector
from ..version import __version__
from . import codes
from .inspection import inspect
from .options import as_json, with_settings
from .terminal import is_terminal, printable, say_json

LIBRARIES = {
    "msgspec": "",
    "redis": "Redis and Valkey need it: pip install 'penstock[redis]'",
    "hiredis": "makes Redis about three times as fast: pip install 'penstock[redis]'",
    "valkey-glide": "for glide:// addresses: pip install 'penstock[glide]'",
    "sqlalchemy": "SQLite needs it: pip install 'penstock[sqlite]'",
    "asyncpg": "PostgreSQL needs it: pip install 'penstock[postgres]'",
    "aiomysql": "MySQL and MariaDB need it: pip install 'penstock[mysql]'",
    "uvloop": "makes workers faster: pip install 'penstock[uvloop]'",
    "pydantic": "for pydantic payloads: pip install 'penstock[pydantic]'",
    "prometheus-client": "for --metrics-port: pip install 'penstock[prometheus]'",
}
COLOURS = {"ok": "green", "unknown": "cyan", "warning": "yellow", "danger": "red"}


class Report(msgspec.Struct, frozen=True):
    """What the doctor found. ``libraries``: versions, ``None`` for what is not installed."""

    broker: str
    python: str
    penstock: str
    libraries: dict[str, str | None]
    capabilities: dict[str, Any]
    findings: Sequence[Finding]


@click.command()
@as_json
@with_settings("broker")
def doctor(settings: Settings, as_json: bool) -> int:
    """Check the broker's settings and this installation.

    Exits with 3 if something is dangerous, or if the broker cannot be used at all.
    """

    async def work(inspector: Inspector) -> Report:
        return Report(
            mask_url(settings.required_broker()),
            f"{platform.python_implementation()} {platform.python_version()}",
            __version__,
            {name: _version(name) for name in LIBRARIES},
            msgspec.to_builtins(open_broker(settings.required_broker()).capabilities),
            await inspector.diagnose(),
        )

    report = inspect(settings, work)
    if as_json:
        say_json(report)
    else:
        _show(report)
    dangerous = any(finding.level == "danger" for finding in report.findings)
    return codes.UNHEALTHY if dangerous else codes.OK


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _show(report: Report) -> None:
    click.echo(f"penstock {report.penstock} on {report.python}, {sys.platform}")
    for name, found in report.libraries.items():
        click.echo(f"  {name:<18} {found or f'not installed; {LIBRARIES[name]}'}")
    click.echo(f"broker {report.broker} is reachable")
    for name, value in report.capabilities.items():
        click.echo(f"  {name:<18} {_capability(value)}")
    for finding in report.findings:
        level = f"{finding.level:<8}"
        shown = click.style(level, fg=COLOURS[finding.level]) if is_terminal() else level
        click.echo(f"{shown} {printable(finding.subject)}: {printable(finding.detail)}")
    if not report.findings:
        click.echo("ok       this broker has no settings that could be unsafe")


def _capability(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, cast("Sequence[object]", value)))
    return "unlimited" if value == float("inf") else f"{value:,}"
