"""What is logged of a job: "start", then "done" or "fail" with the seconds it took, in the job's context."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, Protocol

from ..clock import SYSTEM_CLOCK, Clock
from ..scoped_logger import at_level, scoped_logger
from .context import Context
from .job_payload import display_class
from .payload import Payload

LOGGED: Final = ("bid", "tags")  # attributes of a payload that the context has if the payload has them


class LogsJobs(Protocol):
    """A job logger; write your own for other lines."""

    def enabled(self) -> bool:
        """Whether anything would be written of a job that asks for nothing itself. Asked for each."""
        ...

    def prepare(self, payload: Payload) -> AbstractContextManager[None]:
        """Around everything that concerns a job, its failure included."""
        ...

    def call(self, payload: Payload, queue: str) -> AbstractContextManager[None]:
        """Around its execution."""
        ...


class JobLogger:
    """The usual one. ``attributes``: of a payload, for the context. ``lines``: whether it writes lines of its own."""

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        attributes: Sequence[str] = LOGGED,
        lines: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._logger = logger or scoped_logger("penstock.job")
        self._attributes, self._lines, self._clock = tuple(attributes), lines, clock

    def enabled(self) -> bool:
        return self._logger.isEnabledFor(logging.INFO)

    @contextmanager
    def prepare(self, payload: Payload) -> Generator[None]:
        fields: dict[str, Any] = {"jid": payload["jid"], "class": display_class(payload)}
        fields |= {name: payload[name] for name in self._attributes if name in payload}
        level = payload.get("log_level")
        with Context.with_(fields):
            if level is None:
                yield
            else:
                with at_level(str(level)):
                    yield

    @contextmanager
    def call(self, payload: Payload, queue: str) -> Generator[None]:
        if not self._lines:
            yield
            return
        began = self._clock.monotonic()
        self._logger.info("start")
        try:
            yield
        except BaseException:
            self._ended("fail", began)
            raise
        self._ended("done", began)

    def _ended(self, how: str, began: float) -> None:
        Context.add("elapsed", round(self._clock.monotonic() - began, 3))
        self._logger.info(how)
