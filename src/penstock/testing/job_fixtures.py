"""Fixtures of pytest for ``penstock.testing.jobs``: say ``pytest_plugins = ["penstock.testing.job_fixtures"]``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..sidekiq.interception import intercept_everywhere, interceptor
from .jobs import FakeQueues, Queues, Testing


@pytest.fixture
def fake_jobs() -> Iterator[FakeQueues]:
    """Jobs that the test pushes are kept in memory, and forgotten after it."""
    yield from _within("fake")


@pytest.fixture
def inline_jobs() -> Iterator[FakeQueues]:
    """Jobs that the test pushes are performed where they are pushed."""
    yield from _within("inline")


def _within(mode: str) -> Iterator[FakeQueues]:
    """Process-wide: a fixture's context variables are not the test's."""
    before = interceptor()
    Queues.clear_all()
    Testing.fake() if mode == "fake" else Testing.inline()
    try:
        yield Queues
    finally:
        Testing.disable()
        intercept_everywhere(before)
        Queues.clear_all()
        Testing.server_middleware.clear()
