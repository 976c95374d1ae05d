"""Fixtures of the end-to-end tests: every broker by URL, and fleets of worker processes on it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import do_without
from tests.end_to_end.fleet import Fleet
from tests.end_to_end.stage import Stage
from tests.servers.redis_server import Server, ServerUnavailableError
from tests.servers.ruby_sidekiq import RubySidekiq

MakeFleet = Callable[..., Fleet]


@pytest.fixture(params=["sqlite", "redis", "valkey", "sidekiq"])
def any_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Each broker that processes share, empty."""
    return _url_of(request, request.param, tmp_path)


@pytest.fixture(params=["sqlite", "redis", "sidekiq"])
def main_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One of each kind: for what takes long."""
    return _url_of(request, request.param, tmp_path)


@pytest.fixture
def ruby(redis_server: Server, tmp_path: Path) -> Iterator[RubySidekiq]:
    """A Ruby Sidekiq on the session's Redis, emptied; its record is that of the test's fleets."""
    redis_server.flush()
    try:
        ruby = RubySidekiq(redis_server.url, tmp_path)
    except ServerUnavailableError as missing:
        do_without(missing)
    yield ruby
    ruby.close()


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[MakeFleet]:
    """Fleets whose processes end with the test."""
    fleets: list[Fleet] = []

    def make(url: str, **settings: Any) -> Fleet:
        fleets.append(Fleet(url, tmp_path, **settings))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.close()


def _url_of(request: pytest.FixtureRequest, kind: str, directory: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{directory / 'jobs.db'}"
    server = request.getfixturevalue("redis_server" if kind == "sidekiq" else f"{kind}_server")
    server.flush()
    return f"sidekiq+{server.url}" if kind == "sidekiq" else str(server.url)


@pytest.fixture(params=["memory", "sqlite", "redis", "valkey", "sidekiq"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """Every broker, for stories inside one process."""
    kind = request.param
    stage = Stage(f"memory://{uuid.uuid4().hex}" if kind == "memory" else _url_of(request, kind, tmp_path))
    yield stage
    await stage.close()
