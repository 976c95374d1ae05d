"""A configuration file as Sidekiq's, read: YAML, JSON or TOML, with sections for environments.

Keys may be written ``concurrency``, ``:concurrency`` or, as in JSON of other languages, ``maxRetries``. In the text
``${NAME}``, ``${NAME:-default}`` and ERB's ``<%= ENV["NAME"] %>`` and ``<%= ENV.fetch("NAME", "default") %>`` are
replaced by the environment's value; other Ruby code is refused, not skipped.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, MissingExtra

NAMES = tuple(f"sidekiq.{suffix}" for suffix in ("yml", "yaml", "yml.erb", "json", "toml"))

_BRACES = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_ERB = re.compile(r"<%=?(.*?)-?%>", re.DOTALL)
_ENV = re.compile(r"""\s*ENV(?:\[\s*(['"])(\w+)\1\s*\]|\.fetch\(\s*(['"])(\w+)\3\s*(?:,\s*(['"]?)(.*?)\5\s*)?\))\s*""")


def environment(given: str | None = None) -> str:
    """The environment's name: what was given, else what the environment itself says."""
    names = ("APP_ENV", "RAILS_ENV", "RACK_ENV")
    return given or next((os.environ[name] for name in names if os.environ.get(name)), "development")


def find(folders: Iterable[Path]) -> Path | None:
    """The first configuration file there is, in ``config`` of one of the folders."""
    candidates = (folder / "config" / name for folder in folders for name in NAMES)
    return next((path for path in candidates if path.is_file()), None)


def load(path: Path, env: str) -> dict[str, Any]:
    """The settings of a file: those for everywhere, and above them those of the section ``env``."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(f"the configuration file {path} cannot be read: {error.strerror}") from error
    everything = _mapping(_parse(_filled(text, path), path), path)
    settings = {name: value for name, value in everything.items() if name != env}
    section = everything.get(env)
    if isinstance(section, Mapping):
        settings |= _mapping(section, path)
    return settings


def _filled(text: str, path: Path) -> str:
    """The text with the environment's values in it."""

    def braces(match: re.Match[str]) -> str:
        default: str | None = match[2]
        value = os.environ.get(match[1], default)
        if value is None:
            raise ConfigurationError(f"{path} wants the environment variable {match[1]}, which is not set")
        return value

    def erb(match: re.Match[str]) -> str:
        found = _ENV.fullmatch(match[1])
        if found is None:
            raise ConfigurationError(
                f"{path} contains Ruby: <%{match[1][:60]}%>; only ENV['NAME'] and ENV.fetch('NAME', 'default') are known:"
                " write ${NAME:-default}, or another file for this worker"
            )
        name: str = found[2] or found[4]
        default: str | None = found[6]
        value = os.environ.get(name, default)
        if value is None and found[2] is None:
            raise ConfigurationError(f"{path} wants the environment variable {name}, which is not set")
        return value or ""

    return _BRACES.sub(braces, _ERB.sub(erb, text))


def _parse(text: str, path: Path) -> Any:
    kind = path.name.removesuffix(".erb").rpartition(".")[2]
    try:
        if kind == "json":
            return json.loads(text)
        if kind == "toml":
            return tomllib.loads(text)
        return _yaml(text)
    except ValueError as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("PyYAML", "yaml") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _mapping(value: Any, path: Path) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{path} should hold names and values, got {type(value).__name__}")
    items: list[tuple[Any, Any]] = list(value.items())  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return {_name(str(key)): inner for key, inner in items}


def _name(key: str) -> str:
    """``:max_retries`` and ``maxRetries`` as ``max_retries``."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key.removeprefix(":")).lower()
