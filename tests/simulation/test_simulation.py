"""The engine in simulated worlds: all well in every one of them, the same for the same seed, and bite.

``PENSTOCK_SEEDS=5000`` (or ``5000:6000``) runs more; ``make simulate SEEDS=…`` does that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import count
from typing import Any

import pytest

import penstock
from penstock.broker import Settlement
from penstock.brokers.memory_system import Entry
from penstock.ledger import Ledger
from penstock.message import Delivery
from penstock.ordering import OrderedLedger
from penstock.outcome import ACK, Ack, Release, Retry
from penstock.running import Running
from penstock.services.leases import LeaseKeeper
from penstock.slots import Slots
from penstock.testing.simulation import Job, Report, Script, SimulatedBroker, Simulation, Step

FIRST, _, LAST = f"{os.environ.get('PENSTOCK_SEEDS') or 250}".rpartition(":")
SEEDS = range(int(FIRST or 0), int(LAST))
BITE = 300  # seeds within which a broken engine must be caught


def test_every_world_keeps_the_contract() -> None:
    events: Counter[str] = Counter()
    for seed in SEEDS:
        report = Simulation(seed).run()
        assert report.fouls == (), str(report)
        events.update(event.what for event in report.history.events)
    print(f"{len(SEEDS)} seeds: {dict(events)}")
    # A world in which nothing goes wrong proves nothing
    assert events["crashes"] > len(SEEDS)
    assert events["thaws"] > len(SEEDS) / 10
    assert events["is back"] > len(SEEDS) / 10
    assert events["runs"] > events["has sent"]


def test_the_same_seed_is_the_same_history_and_another_seed_is_another() -> None:
    digests = [[Simulation(seed).run().history.digest() for seed in range(10)] for _ in range(2)]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 10


def test_the_history_does_not_depend_on_the_process_that_lives_it() -> None:
    program = "from penstock.testing.simulation import Simulation; print(*[Simulation(s).run().history.digest() for s in (3, 4)])"
    source = os.path.dirname(os.path.dirname(penstock.__file__))  # noqa: PTH120
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": source},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert found == {" ".join(Simulation(seed).run().history.digest() for seed in (3, 4)) + "\n"}


def test_a_script_can_be_given_and_is_followed_to_the_letter() -> None:
    steps = (Step(0.0, "fail"), Step(1.0, "release"), Step(0.0, "ack"))
    script = Script(jobs=(Job(1, 0.5, 0.0, steps), Job(2, 0.0, 3.0, (Step(0.0, "dead"),))), mishaps=())
    report = Simulation(1, script=script).run()
    assert report.fouls == ()
    endings = [(event.about, event.detail) for event in report.history.events if event.what == "ended"]
    assert endings == [("1/a", "fail"), ("1/a", "release"), ("1/a", "ack"), ("2/a", "dead")]


# ------------------------------------------------------------------------------------------------------ broken engines


def first_foul(broker_class: type[SimulatedBroker] = SimulatedBroker) -> Report:
    """The first world in which the broken engine is caught."""
    for seed in count():
        assert seed < BITE, f"not caught in {BITE} seeds"
        report = Simulation(seed, broker_class=broker_class).run()
        if report.fouls:
            print(f"caught by {report}")
            return report
    raise AssertionError


def test_a_foul_is_told_with_its_seed_and_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    break_settling_before_the_handler(monkeypatch)
    report = first_foul()
    text = str(report)
    assert text.startswith(f"seed {report.seed}: {report.fouls[0]}\n")
    assert f"FOUL         {report.accused}" in text
    assert f"Simulation({report.seed}).run()" in text


def test_an_engine_that_settles_before_the_handler_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    break_settling_before_the_handler(monkeypatch)
    assert "was acked, but no handler had succeeded" in first_foul().fouls[0]


def break_settling_before_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    following = Slots._next

    def eager(self: Slots) -> Delivery[Any] | None:
        delivery = following(self)
        if delivery is not None:
            self._ledger.finish(delivery, ACK)
        return delivery

    monkeypatch.setattr(Slots, "_next", eager)


class ReclaimsTheLiving(SimulatedBroker):
    """Forgets to look how long a lease has been idle."""

    async def effect_reclaim(self, subscription: Any, limit: int, above: int, below: int | None) -> Any:
        for entry in self.system.group(subscription).leased.values():
            entry.deadline = 0.0
        return await super().effect_reclaim(subscription, limit, above, below)


def test_reclaiming_without_a_look_at_the_lease_is_caught() -> None:
    assert "whose lease was alive" in first_foul(ReclaimsTheLiving).fouls[0]


class TornRetry(SimulatedBroker):
    """A retry in two calls: remove, then put back."""

    async def settle(self, settlements: Sequence[Settlement[int]]) -> Sequence[Delivery[int]]:
        lost: list[Delivery[int]] = []
        for item in settlements:
            if not isinstance(item.outcome, Retry):
                lost += await super().settle([item])
                continue
            gone = await self.exchange(partial(self._remove, item))
            lost += gone
            if not gone:
                await self.exchange(partial(self._put_back, item))
        return lost

    async def _remove(self, item: Settlement[int]) -> Sequence[Delivery[int]]:
        lost = await self.inner.settle([Settlement(delivery=item.delivery, outcome=Ack())])
        if not lost:
            self.referee.settled(self.machine, item)
        return lost

    async def _put_back(self, item: Settlement[int]) -> None:
        message = item.delivery.message
        again = penstock.Message(
            id=message.id,
            type=message.type,
            body=message.body,
            key=message.key,
            attempt=item.delivery.attempt + 1,
            enqueued_at=message.enqueued_at,
            headers=message.headers,
        )
        self.system.add(item.delivery.source, Entry(again), item.outcome.delay, item.delivery.group)


def test_a_retry_that_is_not_atomic_is_caught_losing_a_message() -> None:
    assert "is lost" in first_foul(TornRetry).fouls[0]


def test_leases_that_nobody_keeps_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def idle(self: LeaseKeeper) -> float:
        return 1.0

    monkeypatch.setattr(LeaseKeeper, "run_once", idle)
    assert "who was well and did not renew" in first_foul().fouls[0]


def test_a_stop_that_releases_nothing_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stay_silent(broker: Any) -> None: ...

    def keep(self: Ledger, deliveries: Iterable[Any]) -> None: ...

    finish = Ledger.finish

    def drop_releases(self: Ledger, delivery: Delivery[Any], outcome: Any) -> None:
        if not isinstance(outcome, Release):
            finish(self, delivery, outcome)

    monkeypatch.setattr("penstock.worker.leave", stay_silent)
    monkeypatch.setattr(Ledger, "release_unstarted", keep)
    monkeypatch.setattr(Ledger, "finish", drop_releases)
    assert any("which has stopped" in foul for foul in first_foul().fouls)


def test_a_stop_that_does_not_wait_for_its_last_outcomes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hasty(self: Running, timeout: float) -> bool:
        await self.quiet()
        await self.slots.stop()
        for task in self._tasks:
            task.cancel()
        return True

    monkeypatch.setattr(Running, "stop", hasty)
    assert "was given back, but its handler had succeeded" in first_foul().fouls[0]


def test_a_message_run_anew_on_the_machine_that_is_running_it_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(self: Ledger, deliveries: Iterable[Delivery[Any]]) -> None:
        for delivery in deliveries:
            self.held[delivery.message.id] = delivery
            self.waiting.append(delivery)
            self.idle.clear()

    monkeypatch.setattr(Ledger, "add", add)
    assert "runs twice at once" in first_foul().fouls[0]


def test_an_answer_that_comes_after_its_message_came_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine did once: whatever was still held when it came again was taken for the same execution."""

    def replaces(self: Ledger, old: Delivery[Any], new: Delivery[Any]) -> bool:
        self.held[new.message.id] = new
        return False

    monkeypatch.setattr(Ledger, "_replaces", replaces)
    assert first_foul().fouls


def test_a_handler_whose_attempts_have_no_end_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.retry.RetryPolicy.again", lambda self, attempt, wish: Retry(0.1))
    assert "was run as attempt" in first_foul().fouls[0]


def test_two_of_one_key_at_once_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OrderedLedger, "may_run", lambda self, delivery: True)
    assert "began beside" in first_foul().fouls[0]


def test_a_retry_that_is_overtaken_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = OrderedLedger._rest

    def yielding(self: OrderedLedger, delivery: Delivery[Any], retry: Retry) -> None:
        rest(self, delivery, retry)
        self._pass_on(delivery.message.key, delivery.message.id)

    monkeypatch.setattr(OrderedLedger, "_rest", yielding)
    assert "overtook" in first_foul().fouls[0]


def test_work_after_the_stop_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def leave_them(self: Slots) -> None: ...

    monkeypatch.setattr(Slots, "stop", leave_them)
    assert "which had stopped" in first_foul().fouls[0]


def test_an_attempt_that_is_not_counted_is_caught() -> None:
    class Forgetful(SimulatedBroker):
        async def effect_reclaim(self, subscription: Any, limit: int, above: int, below: int | None) -> Any:
            for entry in self.system.group(subscription).leased.values():
                entry.count = max(0, entry.count - 1)
            return await super().effect_reclaim(subscription, limit, above, below)

    assert "are spent" in first_foul(Forgetful).fouls[0]


def test_one_group_that_takes_from_another_is_caught() -> None:
    class Meddler(SimulatedBroker):
        async def effect_settle(self, settlements: Sequence[Settlement[int]]) -> Sequence[Delivery[int]]:
            lost = await super().effect_settle(settlements)
            settled = {item.delivery.message.id for item in settlements}
            for group in self.system.streams["jobs"].groups.values():
                for entry in [entry for entry in group.ready if entry.message.id in settled]:
                    group.ready.remove(entry)
            return lost

    assert "is lost" in first_foul(Meddler).fouls[0]
