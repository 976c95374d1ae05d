"""Jobs without a broker, for the tests of those who write jobs.

``Testing.fake()``: jobs that are pushed are kept in memory, to be looked at and performed when the test says so.
``Testing.inline()``: they are performed where they are pushed. ``Testing.disable()``: they go to the broker, as outside
of tests. In both modes a job travels as JSON and back, and through the client middleware. With ``with
Testing.mode("fake"):`` a mode holds for the block, in this task or thread; ``penstock.testing.job_fixtures`` has it as
fixtures of pytest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeAlias, TypeVar

from .. import job_route
from ..brokers.memory import MemoryBroker
from ..brokers.sidekiq.ruby_json import dumps, loads
from ..checks import one_of
from ..clock import SYSTEM_CLOCK
from ..errors import PenstockError
from ..job import FunctionJob, Job
from ..portal import shared
from ..sidekiq.chain import Chain
from ..sidekiq.client import Client
from ..sidekiq.inline import job_class, run_inline
from ..sidekiq.interception import Interceptor, intercept_everywhere, intercepting
from ..sidekiq.payload import Payload

T = TypeVar("T")

Mode: TypeAlias = Literal["fake", "inline", "disable"]
AnyJob: TypeAlias = type[Job] | FunctionJob[..., Any]


class EmptyQueueError(PenstockError):
    """There is no job to perform."""


class FakeQueues:
    """The jobs that were pushed in fake mode and not performed, oldest first. ``Queues`` is the one there is."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[int, Payload] = OrderedDict()
        self._pushed = 0

    def __getitem__(self, queue: str) -> list[Payload]:
        """The jobs of a queue."""
        return [payload for payload in self._jobs.values() if payload["queue"] == queue]

    @property
    def jobs(self) -> list[Payload]:
        """All jobs."""
        return list(self._jobs.values())

    @property
    def jobs_by_queue(self) -> dict[str, list[Payload]]:
        """All jobs, by the name of their queue."""
        return self._grouped("queue")

    @property
    def jobs_by_class(self) -> dict[str, list[Payload]]:
        """All jobs, by the wire name of their class."""
        return self._grouped("class")

    def push(self, payload: Payload) -> None:
        """Put a job behind the others."""
        self._pushed += 1
        self._jobs[self._pushed] = payload

    def pop(self, name: str | None = None) -> Payload | None:
        """Take the oldest job, or the oldest of a wire name."""
        for number, payload in self._jobs.items():
            if name is None or payload["class"] == name:
                return self._jobs.pop(number)
        return None

    def delete_for(self, jid: str) -> None:
        """Forget one job."""
        self._keep(lambda payload: payload["jid"] != jid)

    def clear(self, queue: str) -> None:
        """Forget the jobs of a queue."""
        self._keep(lambda payload: payload["queue"] != queue)

    def clear_class(self, name: str) -> None:
        """Forget the jobs of a wire name."""
        self._keep(lambda payload: payload["class"] != name)

    def clear_all(self) -> None:
        """Forget everything."""
        self._jobs.clear()

    def _keep(self, wanted: Callable[[Payload], bool]) -> None:
        self._jobs = OrderedDict((number, payload) for number, payload in self._jobs.items() if wanted(payload))

    def _grouped(self, field: str) -> dict[str, list[Payload]]:
        groups: dict[str, list[Payload]] = {}
        for payload in self._jobs.values():
            groups.setdefault(payload[field], []).append(payload)
        return groups


Queues: Final = FakeQueues()


class _Sync:
    """What performs jobs, for tests without a loop."""

    def drain(self, job: AnyJob) -> int:
        return _wait(lambda: Testing.drain(job))

    def drain_all(self) -> int:
        return _wait(Testing.drain_all)

    def perform_one(self, job: AnyJob) -> Payload:
        return _wait(lambda: Testing.perform_one(job))


class Testing:
    """The modes, and the jobs of a class. ``server_middleware`` is around each job that is performed."""

    __test__ = False  # pytest takes names like this for tests

    server_middleware: Final = Chain()
    sync: Final = _Sync()

    @staticmethod
    def fake() -> None:
        """Keep jobs in memory, in the whole process."""
        _set("fake")

    @staticmethod
    def inline() -> None:
        """Perform jobs where they are pushed, in the whole process; when they were to run makes no difference."""
        _set("inline")

    @staticmethod
    def disable() -> None:
        """Push jobs to the broker."""
        _set("disable")

    @staticmethod
    @contextmanager
    def mode(mode: Mode) -> Generator[None]:
        """A mode for this task or thread, and what it starts, within the block. Not to be nested."""
        one_of("the mode", mode, _INTERCEPTORS)
        with _some_client(), intercepting(_INTERCEPTORS[mode]):
            yield

    @staticmethod
    def jobs(job: AnyJob) -> list[Payload]:
        """The payloads of a class that wait to be performed."""
        return Queues.jobs_by_class.get(_name(job), [])

    @staticmethod
    def clear(job: AnyJob) -> None:
        """Forget the jobs of a class."""
        Queues.clear_class(_name(job))

    @staticmethod
    def clear_all() -> None:
        """Forget all jobs."""
        Queues.clear_all()

    @staticmethod
    async def perform_one(job: AnyJob) -> Payload:
        """Perform the oldest job of a class. Raises ``EmptyQueueError`` if there is none, and what the job raises."""
        payload = Queues.pop(_name(job))
        if payload is None:
            raise EmptyQueueError(f"no job of {_name(job)} waits to be performed")
        await _perform(payload)
        return payload

    @staticmethod
    async def drain(job: AnyJob) -> int:
        """Perform the jobs of a class until there are none, those included that they push; how many."""
        return await _drain(_name(job))

    @staticmethod
    async def drain_all() -> int:
        """Perform all jobs until there are none; how many."""
        return await _drain(None)


async def _drain(name: str | None) -> int:
    performed = 0
    while payload := Queues.pop(name):
        await _perform(payload)
        performed += 1
    return performed


async def _perform(payload: Payload) -> None:
    await run_inline(job_class(payload["class"]), payload, Testing.server_middleware)


async def _keep(payloads: Sequence[Payload]) -> None:
    for payload in payloads:
        if "at" not in payload:
            payload["enqueued_at"] = int(SYSTEM_CLOCK.time() * 1000)
        Queues.push(loads(dumps(payload)))


async def _run(payloads: Sequence[Payload]) -> None:
    for payload in payloads:
        await _perform(loads(dumps(payload)))


_INTERCEPTORS: Final[dict[Mode, Interceptor | None]] = {"fake": _keep, "inline": _run, "disable": None}


class _Installed:
    """A client of ours, where the program under test has none."""

    client: Client | None = None


def _set(mode: Mode) -> None:
    intercept_everywhere(_INTERCEPTORS[mode])
    if mode != "disable" and job_route.installed() is None:
        _Installed.client = Client(MemoryBroker()).install()
    elif mode == "disable" and _Installed.client is not None and job_route.installed() is _Installed.client:
        _Installed.client = None
        job_route.install(None)


@contextmanager
def _some_client() -> Generator[None]:
    if job_route.installed() is not None:
        yield
        return
    with job_route.via(Client(MemoryBroker())):
        yield


def _name(job: AnyJob) -> str:
    return job.job.wire_name if isinstance(job, FunctionJob) else job.wire_name


def _wait(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return shared().call(work, None)
