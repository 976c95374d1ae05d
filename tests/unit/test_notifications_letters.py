"""Dead letters under several groups, in great numbers, and on their way back."""

from __future__ import annotations

import asyncio

from penstock import NotificationManager
from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.memory import MemoryBroker
from penstock.message import Message
from penstock.notifications.dead_letters import Cleanup
from penstock.notifications.letters import SOURCE, LetterBroker
from penstock.outcome import DeadLetter
from penstock.stores.memory import MemoryStore
from penstock.testing.clock import ManualClock
from tests.unit.notifying import Heard, until


async def dead_letters(count: int) -> MemoryBroker:
    broker = MemoryBroker()
    source = await broker.bind("x", "g")
    reading = Subscription(source=source, group="g", lease=30.0)
    for number in range(count):
        await broker.publish([Outgoing(destination=source, message=Message(type="x", body=b"%d" % number))])
        [delivery] = await broker.fetch(reading, 1, 0.0)
        await broker.settle([Settlement(delivery=delivery, outcome=DeadLetter("bad"))])
    return broker


def group(name: str) -> Subscription:
    return Subscription(source=SOURCE, group=name, lease=30.0)


async def test_each_group_of_readers_gets_each_dead_letter() -> None:
    letters = LetterBroker(await dead_letters(2), MemoryStore(), ManualClock())
    for name in ("a", "b"):
        assert [b"0", b"1"] == [each.message.body for each in await letters.fetch(group(name), 10, 0.0)]


async def test_however_many_letters_were_kept_the_next_one_is_found() -> None:
    broker = await dead_letters(1001)
    letters = LetterBroker(broker, MemoryStore(), ManualClock())
    kept = await letters.fetch(group("a"), 1000, 1.0)
    await letters.settle([Settlement(delivery=each, outcome=DeadLetter("kept")) for each in kept])
    again = LetterBroker(broker, letters._store, letters._clock)  # after a restart it looks from the beginning
    [found] = await again.fetch(group("a"), 1, 1.0)
    assert b"1000" == found.message.body


async def test_who_only_reads_dead_letters_sweeps_them_as_well() -> None:
    async with NotificationManager("memory://dead-readers", max_retries=1, drain=1.0) as failing:
        await failing.subscribe("x", Heard(error=ValueError("no")))
        await failing.publish("x", 1)
        letters = failing.dead_letters

        async def there() -> bool:
            return (await letters.stats()).total == 1

        await until(there)
        cleanup = Cleanup(max_age=0.001, interval=0.05)
        async with NotificationManager(failing.broker, store="memory://", cleanup=cleanup) as reading:
            await reading.subscribe_to_dlq(lambda message: None)

            async def gone() -> bool:
                return (await letters.stats()).total == 0

            await until(gone)


async def test_the_oldest_letters_of_all_patterns_go_back_first() -> None:
    async with NotificationManager("memory://", max_retries=1, drain=1.0) as manager:
        letters = manager.dead_letters
        for count, pattern in enumerate(("z", "a"), 1):
            subscription = await manager.subscribe(pattern, Heard(error=ValueError("no")))
            await manager.publish(pattern, pattern)

            async def there(count: int = count) -> bool:
                return (await letters.stats()).total == count

            await until(there)
            await subscription.unsubscribe()
            await asyncio.sleep(0.01)
        assert 1 == await manager.requeue_from_dlq(1)
        assert ["a"] == [each.channel for each in await letters.messages()]
