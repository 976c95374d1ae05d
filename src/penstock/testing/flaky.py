"""A broker that fails when it is told to, around any other: for tests of what happens then.

A failure comes before a verb has had its effect, or after it: then the work is done and the answer is lost, which is
what a broken connection does half of the time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ..broker import Broker
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import ConnectionFailed
from .wrapper import WrappedBroker


@dataclass(slots=True)
class _Fault:
    """``every``: the calls it strikes, counted from the moment it was asked for; ``times``: how often at most."""

    error: Exception
    after: bool
    every: int
    times: float
    calls: int = 0

    def strikes(self) -> bool:
        self.calls += 1
        if not self.times or self.calls % self.every:
            return False
        self.times -= 1
        return True


@dataclass(slots=True)
class _Plan:
    """What a broker and its forks share."""

    clock: Clock
    faults: dict[str, list[_Fault]] = field(default_factory=dict[str, list[_Fault]])
    delays: dict[str, float] = field(default_factory=dict[str, float])
    calls: Counter[str] = field(default_factory=Counter[str])


class FlakyBroker(WrappedBroker):
    """Passes everything on, but for what it was told. Forks share the faults and the counts with their original.

    Verbs are those of ``Broker`` and of the optional protocols: ``"publish"``, ``"settle"``, ``"reclaim"`` …
    """

    def __init__(self, inner: Broker[Any], *, clock: Clock = SYSTEM_CLOCK, _plan: _Plan | None = None) -> None:
        super().__init__(inner)
        self._plan = _plan or _Plan(clock)

    @property
    def calls(self) -> Counter[str]:
        """How often each verb was called, failures included."""
        return self._plan.calls

    def fail(self, verb: str, *, times: float = 1, after: bool = False, error: Exception | None = None) -> None:
        """Fail the next ``times`` calls of ``verb`` (``inf``: until ``heal``), by default with ``ConnectionFailed``.

        ``after``: let the call have its effect first.
        """
        self.fail_every(verb, 1, times=times, after=after, error=error)

    def fail_every(
        self, verb: str, nth: int, *, times: float = float("inf"), after: bool = False, error: Exception | None = None
    ) -> None:
        """Fail every ``nth`` call of ``verb`` from now on."""
        if not hasattr(self, verb):
            raise ValueError(f"{self.url} has no verb {verb!r}")
        fault = _Fault(error or ConnectionFailed(f"{verb} was told to fail"), after, nth, times)
        self._plan.faults.setdefault(verb, []).append(fault)

    def delay(self, verb: str, seconds: float) -> None:
        """Let each call of ``verb`` take so much longer."""
        self._plan.delays[verb] = seconds

    def heal(self) -> None:
        """No more faults, no more delays."""
        self._plan.faults.clear()
        self._plan.delays.clear()

    async def around(self, verb: str, call: Callable[[], Awaitable[Any]]) -> Any:
        plan = self._plan
        plan.calls[verb] += 1
        if seconds := plan.delays.get(verb):
            await plan.clock.sleep(seconds)
        striking = [fault for fault in plan.faults.get(verb, ()) if fault.strikes()]
        for fault in striking:
            if not fault.after:
                raise fault.error
        result = await call()
        for fault in striking:
            raise fault.error
        return result

    def around_fork(self, fork: Broker[Any]) -> FlakyBroker:
        return FlakyBroker(fork, _plan=self._plan)
