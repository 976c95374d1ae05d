"""Signals, as calls on the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Generator, Mapping


@contextlib.contextmanager
def heeding(actions: Mapping[signal.Signals, Callable[[], object]]) -> Generator[None]:
    """Answer these signals inside the block; none of them can where this is not the main thread."""
    loop = asyncio.get_running_loop()
    installed: list[signal.Signals] = []
    for number, action in actions.items():
        with contextlib.suppress(ValueError, RuntimeError):  # not the main thread, or no such loop
            loop.add_signal_handler(number, action)
            installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)
