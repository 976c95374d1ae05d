"""The configuration of this process, and the code that fills it in for one of its two roles.

``configure_server`` is for processes that run jobs, ``configure_client`` for those that only push them: the same module
may be imported by both, and each block runs in its own role only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .client import Client
from .config import Config, opened

F = TypeVar("F", bound=Callable[[Config], object])


class _Process:
    """What there is once for each process."""

    server = False
    config: Config | None = None


def configuration() -> Config:
    """The configuration of this process."""
    if _Process.config is None:
        _Process.config = Config()
    return _Process.config


def is_server() -> bool:
    """Whether this process runs jobs."""
    return _Process.server


def become_server(config: Config | None = None) -> Config:
    """Be a process that runs jobs; to be called before the application is imported. Returns its configuration."""
    _Process.server, _Process.config = True, config or Config()
    return _Process.config


def become_client() -> None:
    """Be a process that only pushes jobs, with a new configuration: as every process begins."""
    _Process.server, _Process.config = False, None


def configure_server(block: F) -> F:
    """Call ``block`` with the configuration, if this process runs jobs. May be used as a decorator."""
    if _Process.server:
        block(configuration())
    return block


def configure_client(block: F) -> F:
    """Call ``block`` with the configuration, if this process does not run jobs, and push with what it says from now on.

    May be used as a decorator.
    """
    if not _Process.server:
        config = configuration()
        block(config)
        client = Client(opened(config), middleware=config.client_middleware, strict_args=config.strict_args)
        client.install()
    return block
