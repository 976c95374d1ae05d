"""Settings of the command line, and where each of them came from.

In order: what was given explicitly, then the environment (``PENSTOCK_BROKER``, ``PENSTOCK_DRAIN`` …; ``REDIS_URL`` as a
last resort for the broker), then ``penstock.toml`` or ``[tool.penstock]`` in ``pyproject.toml``, then the defaults.
"Not given" is a state of its own at every step: nobody's default hides what a later step says. An empty environment
variable counts as not given.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from .errors import ConfigurationError

PREFIX = "PENSTOCK_"
FILES = ("penstock.toml", "pyproject.toml")

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]
LogFormat: TypeAlias = Literal["text", "json"]
Processes: TypeAlias = Annotated[int, Meta(ge=1)] | Literal["auto"]

# Greedy to the last @: a password that was not percent-encoded may hold anything, and hiding too much hurts nobody
_CREDENTIALS = re.compile(r"(://[^:@\s]*):\S*@")
_SECRET_OPTION = re.compile(r"([?&](?:[a-z_-]*(?:password|passwd|secret|token)|key)=)[^&#\s]*", re.IGNORECASE)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set.

    ``broker``: URL of the broker. ``drain``: seconds that running handlers get when a worker stops. ``scheduler``:
    whether workers run one, or leave it to retry daemons. ``uvloop``: use it where it is installed.
    ``metrics_port`` and ``metrics_address``: where a worker serves its metrics, if it has a port for them.
    ``processes``: run so many worker processes under a supervisor, or as many as there are processors; without it, one
    without a supervisor. ``max_jobs`` and ``max_memory`` (in MiB): when such a process is replaced by a fresh one.
    """

    broker: str | None = None
    drain: float = 25.0
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    scheduler: bool = True
    uvloop: bool = True
    metrics_port: int | None = None
    metrics_address: str = "127.0.0.1"
    processes: Processes | None = None
    max_jobs: Annotated[int, Meta(ge=1)] | None = None
    max_memory: Annotated[float, Meta(gt=0)] | None = None

    def required_broker(self) -> str:
        """The broker's URL. Raises ``ConfigurationError`` if there is none."""
        if self.broker is None:
            raise ConfigurationError(
                f'no broker; name one with --broker URL, {PREFIX}BROKER, or broker = "…" in {FILES[0]}'
            )
        return self.broker


_FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and the origin of each, for people."""

    settings: Settings
    origins: Mapping[str, str]

    def describe(self) -> str:
        """All settings as TOML, secrets masked, each with its origin."""
        lines: list[str] = []
        for name in _FIELDS:
            value = getattr(self.settings, name)
            if isinstance(value, str):
                value = mask_url(value)
            text = "# not set" if value is None else msgspec.json.encode(value).decode()
            shown = f"# {name}" if value is None else f"{name} = {text}"
            lines.append(f"{shown:<48} # {self.origins[name]}")
        return "\n".join(lines)


def load(
    explicit: Mapping[str, Any | UnsetType] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    file: Path | None = None,
    directory: Path | None = None,
) -> Loaded:
    """Settings from all sources. ``file`` replaces the search in ``directory`` (by default the current one).

    Raises ``ConfigurationError`` for a value of the wrong type, an unknown name in a file, or a missing ``file``.
    """
    env = os.environ if env is None else env
    named = file or (Path(env[f"{PREFIX}CONFIG"]) if env.get(f"{PREFIX}CONFIG") else None)
    from_file, path = _read(named) if named else _find(directory or Path())
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, field in _FIELDS.items():
        variable = _variable(name, env)
        if explicit and explicit.get(name, UNSET) is not UNSET:
            values[name], origins[name] = explicit[name], "given explicitly"
        elif variable is not None:
            values[name], origins[name] = env[variable], f"environment: {variable}"
        elif name in from_file:
            values[name], origins[name] = from_file[name], f"file: {path}"
        else:
            values[name], origins[name] = field.default, "default"
        values[name] = _checked(name, values[name], origins[name])
    return Loaded(Settings(**values), origins)


def mask_url(text: str) -> str:
    """The text without the passwords that URLs in it carry."""
    return _SECRET_OPTION.sub(r"\1***", _CREDENTIALS.sub(r"\1:***@", text))


def _variable(name: str, env: Mapping[str, str]) -> str | None:
    """The environment variable that says something about a setting."""
    names = (f"{PREFIX}{name.upper()}", "REDIS_URL") if name == "broker" else (f"{PREFIX}{name.upper()}",)
    return next((each for each in names if env.get(each)), None)


def _find(directory: Path) -> tuple[Mapping[str, Any], Path | None]:
    for name in FILES:
        path = directory / name
        if path.is_file():
            found, _ = _read(path)
            if found or name == FILES[0]:
                return found, path
    return {}, None


def _read(path: Path) -> tuple[Mapping[str, Any], Path]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if path.name == "pyproject.toml":
        content = content.get("tool", {}).get("penstock", {})
    unknown = [name for name in content if name not in _FIELDS]
    if unknown:
        raise ConfigurationError(f"{path}: unknown setting {', '.join(unknown)}; there are: {', '.join(_FIELDS)}")
    return content, path


def _checked(name: str, value: Any, origin: str) -> Any:
    """The value in its own type. Only text from the environment is read as something else."""
    if isinstance(value, str) and name in {"log_level", "log_format"}:
        value = value.lower()
    if isinstance(value, str) and origin.startswith("environment") and _FIELDS[name].type is bool:
        value = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(value.lower(), value)
    try:
        checked = msgspec.convert(value, _FIELDS[name].type, strict=not origin.startswith("environment"))
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{name} ({origin}): {error}") from error
    if name == "drain" and not 0 <= checked < float("inf"):
        raise ConfigurationError(f"drain ({origin}): expected seconds, 0 or more, got {value}")
    return checked
