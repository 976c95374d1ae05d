"""One push in the making: ``await app.push(job).on_queue("emails").delay(60)``."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar, cast

from ..errors import ConfigurationError
from ..job import Job
from ..job_terms import Fluent, Terms

J = TypeVar("J", bound=Job)


class Push(Fluent, Awaitable[J], Generic[J]):
    """Await it and the job is pushed; what is said of it before goes before what the job says of itself."""

    def __init__(self, job: J, send: Callable[[J, Terms], Awaitable[J]]) -> None:
        self._job, self._send = job, send
        self._awaited = False

    def __await__(self) -> Generator[Any, None, J]:
        self._awaited = True
        return self._send(self._job, self._terms.over(self._job.terms)).__await__()

    def __del__(self) -> None:
        if not getattr(self, "_awaited", True):
            text = f"the push of {self._job!r:.100} was never awaited: nothing was sent"
            warnings.warn(text, RuntimeWarning, stacklevel=2, source=self)


def checked(job: J) -> J:
    """A job that can be pushed. Raises ``ConfigurationError``."""
    if not isinstance(cast("Any", job), Job):
        raise ConfigurationError(f"push takes an instance of a subclass of penstock.Job, got {job!r:.100}")
    job.fields()
    return job
