"""The reclaimer tells of messages that somebody deleted under their owners' hands."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from penstock.broker import Outgoing, Subscription
from penstock.brokers.memory import MemoryBroker, MemorySystem
from penstock.contrib.prometheus import PrometheusMetrics
from penstock.ledger import Ledger, suspect_count
from penstock.message import Delivery, Message
from penstock.services.reclaimer import Reclaimer
from penstock.telemetry import Event, LostPayload, Telemetry
from penstock.testing.clock import ManualClock

SUBSCRIPTION = Subscription(source="s", group="g")


class Haunted(MemoryBroker):
    """Finds ghosts at its first look."""

    found = 3

    async def ghosts(self, subscription: Subscription) -> int:
        count, self.found = self.found, 0
        return count


def reclaimer_of(broker: MemoryBroker, telemetry: Telemetry) -> Reclaimer:
    def accept(_deliveries: Sequence[Delivery[Any]]) -> None: ...

    return Reclaimer(broker, SUBSCRIPTION, Ledger(5), accept, lambda: 10, telemetry)


async def test_messages_deleted_under_a_lease_are_told_once_in_log_event_and_metric(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events, hub, registry = list[Event](), Telemetry(), CollectorRegistry()
    hub.subscribe(events.append)
    PrometheusMetrics(hub, registry)
    reclaimer = reclaimer_of(Haunted(), hub)
    await reclaimer.run_once()
    await reclaimer.run_once()
    assert events == [LostPayload("s", "g", 3)]
    assert registry.get_sample_value("penstock_lost_payload_total", {"stream": "s", "group": "g"}) == 3
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("payload lost: 3 messages of s ")


async def test_a_broker_that_nobody_else_can_delete_from_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    hub = Telemetry()
    await reclaimer_of(MemoryBroker(), hub).run_once()
    assert caplog.records == []


@pytest.mark.parametrize(("limit", "deaths"), [(5, 2), (2, 1)])
async def test_a_suspect_is_taken_only_while_no_other_is_held_not_even_one_that_runs(limit: int, deaths: int) -> None:
    clock = ManualClock()
    system = MemorySystem(clock)
    broker, dying = MemoryBroker(system, identity="w"), MemoryBroker(system, identity="dying")
    await broker.publish([Outgoing(destination="s", message=Message(type="t", body=b"%d" % n)) for n in range(3)])
    await dying.fetch(SUBSCRIPTION, 3, 0.0)
    await clock.advance(SUBSCRIPTION.lease)
    for _ in range(deaths - 1):
        await dying.reclaim(SUBSCRIPTION, 3)
        await clock.advance(SUBSCRIPTION.lease)
    ledger = Ledger(limit)
    reclaimer = Reclaimer(
        broker, SUBSCRIPTION, ledger, ledger.add, lambda: 10, Telemetry(), suspect_count=suspect_count(limit)
    )
    ran = list[bytes]()
    for _ in range(3):
        pause = await reclaimer.run_once()
        running = ledger.suspects.popleft()  # by a slot
        ran.append(running.message.body)
        assert pause < await reclaimer.run_once() < 1.0
        assert 1 == len(ledger.held)
        ledger.forget((running,))
    await reclaimer.run_once()
    assert [b"0", b"1", b"2"] == ran
