"""Profiles of jobs that ask for one, for the Profiles page: what ran, sampled, in Firefox's format.

A job with the option ``profile``, a token of the asker's, is looked at while it runs, in the thread of the loop or, a
plain one, in its own: a thousand times a second, about two hundred where Python code never waits. The profile of a job that succeeds is kept for a day.
"""

from __future__ import annotations

import gzip
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import msgspec

from ..clients.redis import RedisClient
from ..clock import SYSTEM_CLOCK, Clock
from .job_payload import display_class
from .payload import Payload
from .sampler import Sampler
from .transaction import together

KEPT = 86_400  # seconds
GRACE = 60  # seconds that the profile outlives its entry: Ruby's page fails if there is an entry and no profile
logger = logging.getLogger("penstock.sidekiq")


T = TypeVar("T")


_sampler: ContextVar[Sampler | None] = ContextVar("penstock_sampler", default=None)


class Profiler:
    """``interval``: seconds between two looks. ``folder``: named in the profile; nothing is written there."""

    def __init__(
        self, client: RedisClient, *, interval: float = 0.001, folder: str = "", clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._client, self._interval, self._folder, self._clock = client, interval, folder, clock

    @asynccontextmanager
    async def profile(self, payload: Payload, /) -> AsyncGenerator[None]:
        """Around the execution of a job."""
        started, began = self._clock.time(), self._clock.monotonic()
        sampler = Sampler(threading.get_ident(), self._interval)
        sampler.start()
        token = _sampler.set(sampler)
        try:
            yield
        finally:
            _sampler.reset(token)
            sampler.stop()
        elapsed = self._clock.monotonic() - began
        try:
            await self._store(payload, started, elapsed, sampler.samples(display_class(payload), started, elapsed))
        except Exception:  # the job itself is done
            logger.exception("a profile could not be kept")

    def follow(self, call: Callable[..., T], /) -> Callable[..., T]:
        """The same call; while it runs, in another thread, it is there that the job is looked at."""
        sampler = _sampler.get()
        if sampler is None:
            return call

        def followed(*args: Any) -> T:
            home, sampler.thread = sampler.thread, threading.get_ident()
            try:
                return call(*args)
            finally:
                sampler.thread = home

        return followed

    async def _store(self, payload: Payload, started: float, elapsed: float, profile: Mapping[str, Any]) -> None:
        token, jid, kind = str(payload["profile"]), str(payload["jid"]), display_class(payload)
        data = gzip.compress(msgspec.json.encode(profile), mtime=0)
        key, folder = f"{token}-{jid}", f"{self._folder}/" if self._folder else ""
        facts = ("started_at", int(started), "token", token, "type", kind, "jid", jid, "elapsed", repr(elapsed))
        name = f"{folder}{token}-{kind}-{jid}.json.gz"
        await together(
            self._client,
            ("ZADD", "profiles", repr(self._clock.time() + KEPT), key),
            ("HSET", key, *facts, "filename", name, "size", len(data), "data", data),
            ("EXPIRE", key, KEPT + GRACE),
        )
