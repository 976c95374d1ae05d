"""Profiles of jobs that ask for one, for the Profiles page: what ran, sampled, in Firefox's format.

A job with the option ``profile``, a token of the asker's, is looked at while it runs, in the thread of the loop or, a
plain one, in its own: a thousand times a second, about two hundred where Python code never waits. The profile of a job that succeeds is kept for a day.
"""

from __future__ import annotations

import gzip
import logging
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, Final, TypeVar

import msgspec

from ..clients.redis import RedisClient
from ..clock import SYSTEM_CLOCK, Clock
from .job_payload import display_class
from .payload import Payload
from .transaction import together

KEPT = 86_400  # seconds
GRACE = 60  # seconds that the profile outlives its entry: Ruby's page fails if there is an entry and no profile
DEEPEST = 256  # frames of a stack

logger = logging.getLogger("penstock.sidekiq")

_current_frames: Callable[[], dict[int, FrameType]] = getattr(sys, "_current_frames")  # noqa: B009 there is no other way

VERSION: Final = {"version": 24, "preprocessedProfileVersion": 47}


T = TypeVar("T")


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


class Sampler:
    """Looks at a thread, again and again, from a thread of its own."""

    def __init__(self, thread: int, interval: float) -> None:
        self.thread, self._interval = thread, interval
        self._stopped = threading.Event()
        self._looking = threading.Thread(target=self._look, name="penstock-profiler", daemon=True)
        self._stacks: list[int | None] = []
        self._nodes: dict[tuple[int | None, int], int] = {}  # (prefix, frame) → number
        self._frames: dict[tuple[str, str, int], int] = {}  # (function, file, line) → number

    def start(self) -> None:
        """Begin."""
        self._looking.start()

    def stop(self) -> None:
        """End, and wait until it has."""
        self._stopped.set()
        self._looking.join()

    def _look(self) -> None:
        while True:
            frame = _current_frames().get(self.thread)
            self._stacks.append(None if frame is None else self._stack(frame))
            del frame
            if self._stopped.wait(self._interval):
                return

    def _stack(self, frame: FrameType) -> int | None:
        """The number of a stack: that of its innermost frame and of the stack around it."""
        frames: list[FrameType] = []
        each: FrameType | None = frame
        while each is not None and len(frames) < DEEPEST:
            frames.append(each)
            each = each.f_back
        node: int | None = None
        for one in reversed(frames):
            code = one.f_code
            place = (code.co_qualname, code.co_filename, one.f_lineno)
            number = self._frames.setdefault(place, len(self._frames))
            node = self._nodes.setdefault((node, number), len(self._nodes))
        return node

    def samples(self, name: str, started: float, elapsed: float) -> dict[str, Any]:
        """What was seen, as a profile."""
        strings: dict[str, int] = {}

        def text(value: str) -> int:
            return strings.setdefault(value, len(strings))

        frames, nodes, count = list(self._frames), list(self._nodes), max(len(self._stacks), 1)
        functions = {place: number for number, place in enumerate(dict.fromkeys(frame[:2] for frame in frames))}
        thread: dict[str, Any] = {
            "name": name,
            "processType": "default",
            "processName": "penstock",
            "pid": "0",
            "tid": self.thread,
            "isMainThread": True,
            "processStartupTime": 0,
            "processShutdownTime": None,
            "registerTime": 0,
            "unregisterTime": None,
            "pausedRanges": [],
            "samples": {
                "stack": self._stacks,
                "time": [elapsed * 1000 * number / count for number in range(len(self._stacks))],
                "weight": None,
                "weightType": "samples",
                "length": len(self._stacks),
            },
            "stackTable": {
                "prefix": [prefix for prefix, _ in nodes],
                "frame": [frame for _, frame in nodes],
                "category": [0] * len(nodes),
                "subcategory": [0] * len(nodes),
                "length": len(nodes),
            },
            "frameTable": _frame_table(frames, functions),
            "funcTable": {
                "name": [text(function) for function, _ in functions],
                "isJS": [False] * len(functions),
                "relevantForJS": [False] * len(functions),
                "resource": [-1] * len(functions),
                "fileName": [text(file) for _, file in functions],
                "lineNumber": [None] * len(functions),
                "columnNumber": [None] * len(functions),
                "length": len(functions),
            },
            "resourceTable": {"lib": [], "name": [], "host": [], "type": [], "length": 0},
            "nativeSymbols": {"libIndex": [], "address": [], "name": [], "functionSize": [], "length": 0},
            "markers": {
                "data": [],
                "name": [],
                "startTime": [],
                "endTime": [],
                "phase": [],
                "category": [],
                "length": 0,
            },
        }
        thread["stringArray"] = list(strings)
        return {"meta": _meta(name, started, self._interval), "libs": [], "threads": [thread]}


_sampler: ContextVar[Sampler | None] = ContextVar("penstock_sampler", default=None)


def _frame_table(frames: list[tuple[str, str, int]], functions: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    count = len(frames)
    return {
        "address": [-1] * count,
        "inlineDepth": [0] * count,
        "category": [0] * count,
        "subcategory": [0] * count,
        "func": [functions[frame[:2]] for frame in frames],
        "nativeSymbol": [None] * count,
        "innerWindowID": [None] * count,
        "implementation": [None] * count,
        "line": [frame[2] for frame in frames],
        "column": [None] * count,
        "length": count,
    }


def _meta(name: str, started: float, interval: float) -> dict[str, Any]:
    return {
        **VERSION,
        "interval": interval * 1000,
        "startTime": started * 1000,
        "processType": 0,
        "product": f"penstock: {name}",
        "stackwalk": 0,
        "debug": False,
        "categories": [{"name": "Python", "color": "yellow", "subcategories": ["Other"]}],
        "markerSchema": [],
        "symbolicated": True,
    }
