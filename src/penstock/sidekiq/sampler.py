"""Looks at a thread, again and again, and says what it saw as Firefox's profiler reads it (its processed format)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

DEEPEST = 256  # frames of a stack

VERSION: Final = {"version": 24, "preprocessedProfileVersion": 47}
_current_frames: Callable[[], dict[int, FrameType]] = getattr(sys, "_current_frames")  # noqa: B009 there is no other way


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
            **_process(name, self.thread),
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
                **_unsaid(len(nodes), category=0, subcategory=0),
            },
            "frameTable": {
                "func": [functions[frame[:2]] for frame in frames],
                "line": [frame[2] for frame in frames],
                **_unsaid(len(frames), address=-1, inlineDepth=0, category=0, subcategory=0, nativeSymbol=None),
                **_unsaid(len(frames), innerWindowID=None, implementation=None, column=None),
            },
            "funcTable": {
                "name": [text(function) for function, _ in functions],
                "fileName": [text(file) for _, file in functions],
                **_unsaid(len(functions), isJS=False, relevantForJS=False, resource=-1, lineNumber=None),
                **_unsaid(len(functions), columnNumber=None),
            },
        }
        thread["stringArray"] = list(strings)
        return {"meta": _meta(name, started, self._interval), "libs": [], "threads": [thread]}


def _unsaid(length: int, **columns: Any) -> dict[str, Any]:
    """Columns of a table of which there is nothing to say."""
    return {**{name: [value] * length for name, value in columns.items()}, "length": length}


def _process(name: str, thread: int) -> dict[str, Any]:
    """What a thread is, and the tables that are empty here."""
    return {
        "name": name,
        "processType": "default",
        "processName": "penstock",
        "pid": "0",
        "tid": thread,
        "isMainThread": True,
        "processStartupTime": 0,
        "processShutdownTime": None,
        "registerTime": 0,
        "unregisterTime": None,
        "pausedRanges": [],
        "resourceTable": _unsaid(0, lib=None, name=None, host=None, type=None),
        "nativeSymbols": _unsaid(0, libIndex=None, address=None, name=None, functionSize=None),
        "markers": _unsaid(0, data=None, name=None, startTime=None, endTime=None, phase=None, category=None),
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
