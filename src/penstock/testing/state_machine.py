"""Any broker against a model of the contract, by chance: a hypothesis state machine.

    TestMine = broker_machine(MyMaker).TestCase

Hypothesis publishes, fetches, settles, extends, lets leases lapse, reclaims and closes in any order, from several
owners and two groups, and holds every answer against the model; what fails is shrunk to the shortest story. Needs
hypothesis. The model says what may happen, not in which order: order is the conformance suite's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ..broker import Broker, Outgoing, Settlement, Subscription, SupportsReclaim, SupportsSchedule
from ..message import Delivery, Message
from ..outcome import Ack, DeadLetter, Outcome, Release, Retry
from .clock import ManualClock

T = TypeVar("T")

LEASE = 10.0
GROUPS = ("a", "b")
SOURCE = "s"
OUTCOMES: tuple[Outcome, ...] = (
    Ack(),
    Retry(0.0),
    Retry(3.0),
    Retry(0.0, counts=False),
    DeadLetter("no"),
    Release(),
    Release(3.0),
)


class System(Protocol):
    """What is under test. ``clock`` is the system's; ``connect`` makes one more owner, not opened."""

    clock: ManualClock

    def connect(self) -> Broker[Any]:
        """One more owner."""
        ...


@dataclass(slots=True, eq=False)
class Copy:
    """One message in one group. ``count``: how often handed over since the last retry; ``vague``: or one less."""

    body: bytes
    group: str
    state: Literal["waiting", "leased", "gone"]
    due: float = 0.0
    attempt: int = 0
    count: int = 0
    vague: bool = False
    deadline: float = 0.0
    delivery: Delivery[Any] | None = None
    owner: int = -1


class BrokerMachine(RuleBasedStateMachine):
    """See the module. Two owners at a time; one that closes is replaced by a new one."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._context = self.system()
        self._system = self._context.__enter__()
        self._brokers: list[Broker[Any]] = []
        self._copies: list[Copy] = []
        self._stale: list[tuple[int, Delivery[Any]]] = []
        self._number = 0

    def system(self) -> AbstractContextManager[System]:
        """The system of one story, empty."""
        raise AssertionError("make the class with broker_machine()")

    def teardown(self) -> None:
        try:
            self._drain()
        finally:
            for broker in self._brokers:
                self._do(broker.close())
            self._context.__exit__(None, None, None)
            self._loop.close()

    @initialize()
    def begin(self) -> None:
        self._brokers = [self._system.connect() for _ in range(2)]
        for broker in self._brokers:
            self._do(broker.open())
        for group in GROUPS:
            self._do(self._brokers[0].fetch(_subscription(group), 1, 0.0))

    # ----------------------------------------------------------------------------------------------------------- rules

    @rule(owner=st.integers(0, 1), count=st.integers(1, 3), delay=st.sampled_from([0.0, 0.0, 5.0]))
    def publish(self, owner: int, count: int, delay: float) -> None:
        bodies = [str(self._number + n).encode() for n in range(count)]
        self._number += count
        outgoing = [Outgoing(destination=SOURCE, message=Message(type="t", body=b), delay=delay) for b in bodies]
        idents = self._do(self._brokers[owner].publish(outgoing))
        assert count == len(set(idents))
        for body in bodies:
            self._copies += [Copy(body, group, "waiting", due=self._now + delay) for group in GROUPS]

    @rule(owner=st.integers(0, 1), group=st.sampled_from(GROUPS), limit=st.integers(1, 4))
    def fetch(self, owner: int, group: str, limit: int) -> None:
        self._take(owner, self._fetch(owner, group, limit), limit)

    @rule(owner=st.integers(0, 1), group=st.sampled_from(GROUPS), limit=st.integers(1, 4))
    def reclaim(self, owner: int, group: str, limit: int) -> None:
        self._take(owner, self._reclaim(owner, group, limit), limit)

    @rule(seconds=st.sampled_from([1.0, 4.0, 11.0]))
    def lapse(self, seconds: float) -> None:
        self._do(self._system.clock.advance(seconds))

    @precondition(lambda self: self._held)
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES))
    def settle(self, data: st.DataObject, outcome: Outcome) -> None:
        copy = data.draw(st.sampled_from(self._held), label="copy")
        assert copy.delivery is not None
        delivery = copy.delivery
        lost = self._do(self._brokers[copy.owner].settle([Settlement(delivery=delivery, outcome=outcome)]))
        if copy.deadline > self._now:
            assert [] == list(lost), "a living lease was refused"
        self._stale.append((copy.owner, delivery))
        if not lost:
            self._settled(copy, outcome)

    @precondition(lambda self: self._stale)
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES))
    def settle_what_is_not_held(self, data: st.DataObject, outcome: Outcome) -> None:
        owner, delivery = data.draw(st.sampled_from(self._stale), label="stale")
        if any(copy.delivery is delivery for copy in self._held):
            return
        lost = self._do(self._brokers[owner].settle([Settlement(delivery=delivery, outcome=outcome)]))
        assert [delivery] == list(lost), "an outcome was taken from somebody who does not hold the message"

    @precondition(lambda self: self._held)
    @rule(data=st.data())
    def extend(self, data: st.DataObject) -> None:
        copy = data.draw(st.sampled_from(self._held), label="copy")
        assert copy.delivery is not None
        lost = self._do(self._brokers[copy.owner].extend([copy.delivery], LEASE))
        if copy.deadline > self._now:
            assert [] == list(lost), "a living lease was not extended"
        if not lost:
            copy.deadline = self._now + LEASE

    @rule(owner=st.integers(0, 1))
    def leave_and_come_back_as_somebody_else(self, owner: int) -> None:
        self._do(self._brokers[owner].close())
        for copy in self._held:
            if copy.owner == owner:
                # A lease that lapsed and that nobody took may be given back, or be left to whoever takes it
                vague = copy.deadline <= self._now
                self._back(copy, copy.count - (not vague))
                copy.vague = vague
        self._stale = [item for item in self._stale if item[0] != owner]
        self._brokers[owner] = self._system.connect()
        self._do(self._brokers[owner].open())

    @invariant()
    def nobody_holds_what_another_holds(self) -> None:
        receipts = [id(copy.delivery) for copy in self._held]
        assert len(receipts) == len(set(receipts))

    # ----------------------------------------------------------------------------------------------------------- model

    @property
    def _now(self) -> float:
        return self._system.clock.time()

    @property
    def _held(self) -> list[Copy]:
        return [copy for copy in self._copies if copy.state == "leased"]

    def _take(self, owner: int, deliveries: list[Delivery[Any]], limit: int) -> None:
        assert len(deliveries) <= limit
        for delivery in deliveries:
            body, group = delivery.message.body, delivery.group
            copy = next(c for c in self._copies if c.body == body and c.group == group)
            if copy.state == "leased":
                assert copy.deadline <= self._now, "taken from somebody whose lease is alive"
                self._stale.append((copy.owner, copy.delivery)) if copy.delivery is not None else None
            else:
                assert copy.state == "waiting", f"came back although it is {copy.state}"
                assert copy.due <= self._now, "came before its time"
            copy.count = delivery.count if copy.vague and delivery.count == copy.count else copy.count + 1
            copy.vague = False
            assert (copy.attempt, copy.count) == (delivery.message.attempt, delivery.count)
            copy.state, copy.owner, copy.delivery, copy.deadline = "leased", owner, delivery, self._now + LEASE

    def _settled(self, copy: Copy, outcome: Outcome) -> None:
        match outcome:
            case Retry(delay=delay, counts=counts):
                if counts:
                    copy.attempt += copy.count
                self._back(copy, 0, delay or 0.0)
            case Release(delay=delay):
                self._back(copy, copy.count - 1, delay)
            case _:
                copy.state, copy.delivery = "gone", None

    def _back(self, copy: Copy, count: int, delay: float = 0.0) -> None:
        copy.state, copy.count, copy.due, copy.delivery = "waiting", count, self._now + delay, None

    def _drain(self) -> None:
        """Everything that is not gone must come out, if one asks for long enough."""
        for _ in range(20):
            left = [copy for copy in self._copies if copy.state != "gone"]
            if not left or not self._brokers:
                return
            self._do(self._system.clock.advance(LEASE * 1.1))
            for group in GROUPS:
                self._take(0, self._fetch(0, group, 1000), 1000)
                self._take(0, self._reclaim(0, group, 1000), 1000)
            for copy in self._held:
                assert copy.delivery is not None
                if copy.deadline > self._now:
                    settlement = Settlement(delivery=copy.delivery, outcome=Ack())
                    assert [] == list(self._do(self._brokers[copy.owner].settle([settlement])))
                    copy.state = "gone"
        lost = [(copy.body, copy.group, copy.state) for copy in self._copies if copy.state != "gone"]
        assert [] == lost, f"lost: {lost}"

    def _fetch(self, owner: int, group: str, limit: int) -> list[Delivery[Any]]:
        broker = self._brokers[owner]
        if isinstance(broker, SupportsSchedule):
            self._do(broker.promote_due(SOURCE, 1000))
        return list(self._do(broker.fetch(_subscription(group), limit, 0.0)))

    def _reclaim(self, owner: int, group: str, limit: int) -> list[Delivery[Any]]:
        broker = self._brokers[owner]
        if not isinstance(broker, SupportsReclaim):
            return []
        return list(self._do(cast("SupportsReclaim[Any]", broker).reclaim(_subscription(group), limit)))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)


def broker_machine(system: Callable[[], AbstractContextManager[System]]) -> type[BrokerMachine]:
    """The machine for a system. ``system()`` is entered for each story and finds nothing there from the last one."""
    enter = system

    class Machine(BrokerMachine):
        def system(self) -> AbstractContextManager[System]:
            return enter()

    return Machine


def _subscription(group: str) -> Subscription:
    return Subscription(source=SOURCE, group=group, lease=LEASE)
