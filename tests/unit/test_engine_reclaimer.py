"""The reclaimer tells of messages that somebody deleted under their owners' hands."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from penstock.broker import Subscription
from penstock.brokers.memory import MemoryBroker
from penstock.contrib.prometheus import PrometheusMetrics
from penstock.ledger import Ledger
from penstock.message import Delivery
from penstock.services.reclaimer import Reclaimer
from penstock.telemetry import Event, LostPayload, Telemetry

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
