"""What is peculiar to the Redis Streams driver; the contract itself is in ``tests/conformance``."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
import redis
from msgspec.structs import replace

from penstock import Claim, Consumer, Context, Worker
from penstock.broker import Outgoing, Settlement, Subscription
from penstock.brokers.redis_streams import RedisStreamsBroker
from penstock.brokers.redis_streams.dialect import GLIDE_KIT
from penstock.brokers.redis_streams.options import Keys, Receipt
from penstock.brokers.redis_streams.reading import Membership
from penstock.brokers.redis_streams.scripts import CLAIM, SETTLE
from penstock.brokers.redis_streams.settling import Batch, Native
from penstock.clients.redis import Script
from penstock.errors import AccessDenied, BrokerError, ConnectionFailed, EncodeError, PublishError
from penstock.message import Delivery, Message
from penstock.outcome import ACK, DeadLetter, Outcome, Release, Retry
from tests.servers.redis_server import OwnServer, Server

SUB = Subscription(source="s", group="g", lease=30.0)
Make = Callable[..., RedisStreamsBroker]


@pytest.fixture
async def make(redis_url: str) -> AsyncIterator[Make]:
    made: list[RedisStreamsBroker] = []

    def make(url: str = redis_url, **options: Any) -> RedisStreamsBroker:
        made.append(RedisStreamsBroker.from_url(url, **options))
        return made[-1]

    yield make
    for broker in made:
        await broker.close()


@pytest.fixture
async def broker(make: Make) -> RedisStreamsBroker:
    return make()


# ------------------------------------------------------------------------------------------------------------- retries


async def test_200_equal_messages_that_fail_together_are_200_members(broker: RedisStreamsBroker, shared_server: Server):
    await send(broker, *[b"1"] * 200)
    await settle(broker, await broker.fetch(SUB, 200, 0.0), Retry(60.0))
    assert 200 == shared_server.call("ZCARD", "s:retry")


async def test_any_number_may_promote_at_once_and_nothing_is_moved_twice(make: Make, shared_server: Server):
    brokers = [make() for _ in range(4)]
    await send(brokers[0], *[b"%d" % n for n in range(500)])
    await settle(brokers[0], await brokers[0].fetch(SUB, 500, 0.0), Retry(0.0))

    async def promote(broker: RedisStreamsBroker) -> int:
        count = 0
        while moved := (await broker.promote_due("s", 7)).count:
            count += moved
        return count

    assert 500 == sum(await asyncio.gather(*[promote(broker) for broker in brokers]))
    found = await brokers[0].fetch(SUB, 1000, 0.0)
    assert sorted(b"%d" % n for n in range(500)) == sorted(d.message.body for d in found)
    assert 0 == shared_server.call("EXISTS", "s:retry")


async def test_a_limit_of_promotions_says_that_there_is_more(broker: RedisStreamsBroker):
    await send(broker, *[b"1"] * 3)
    await settle(broker, await broker.fetch(SUB, 3, 0.0), Retry(0.0))
    assert (2, 0.0) == astuple(await broker.promote_due("s", 2))
    assert (1, None) == astuple(await broker.promote_due("s", 2))


async def test_the_next_due_time_is_told(broker: RedisStreamsBroker):
    await broker.publish([Outgoing(destination="s", message=Message(type="t", body=b"1"), delay=60.0)])
    promoted = await broker.promote_due("s", 10)
    assert 0 == promoted.count
    assert 60.0 == pytest.approx(promoted.next_due, abs=1.0)


async def test_unreadable_members_become_dead_letters_and_hold_nobody_up(
    broker: RedisStreamsBroker, shared_server: Server
):
    bad = ["no json", "1", "{}", '{"fields":{"a":1}}', '{"fields":{}}', "[" * 2000, '{"stream":"s","fields":"x"}']
    for n, member in enumerate(bad):
        shared_server.call("ZADD", "s:retry", n, member)
    await send(broker, b"good")
    await settle(broker, await broker.fetch(SUB, 1, 0.0), Retry(0.0))

    assert 1 == (await broker.promote_due("s", 100)).count

    letters = await broker.dead("s", 100)
    assert bad == [(letter.raw or b"").decode() for letter in letters]
    assert {("unreadable", broker.identity)} == {(letter.reason, letter.owner) for letter in letters}
    assert 0 == await broker.requeue_dead("s", [letter.id for letter in letters])
    assert 0 == shared_server.call("ZCARD", "s:retry")


async def test_a_member_with_another_stream_is_moved_there_whatever_its_name(
    broker: RedisStreamsBroker, shared_server: Server
):
    member = json.dumps({"stream": 'o"ther', "fields": {"headers": '{"type":"t"}', "payload": "1"}})
    shared_server.call("ZADD", "s:retry", 1, member)
    assert 1 == (await broker.promote_due("s", 10)).count
    (delivery,) = await broker.fetch(Subscription(source='o"ther'), 1, 0.0)
    assert ("t", b"1") == (delivery.message.type, delivery.message.body)


async def test_a_subscription_may_keep_its_retries_elsewhere(broker: RedisStreamsBroker, shared_server: Server):
    later = Subscription(source="s", group="g", delayed="later")
    await send(broker, b"1")
    await settle(broker, await broker.fetch(later, 1, 0.0), Retry(0.0))
    assert [1, 0] == [shared_server.call("ZCARD", "later"), shared_server.call("EXISTS", "s:retry")]
    assert 0 == (await broker.promote_due("s", 10)).count
    assert 1 == (await broker.promote_due("s", 10, delayed="later")).count


async def test_an_outcome_that_cannot_be_written_leaves_its_message_leased(
    broker: RedisStreamsBroker, shared_server: Server
):
    await send(broker, b"0", b"1", b"2")
    first, second, third = await broker.fetch(SUB, 3, 0.0)
    shared_server.call("SET", "s:retry", "no sorted set")
    outcomes = [(first, ACK), (second, Retry(1.0)), (third, DeadLetter("no"))]
    settlements = [Settlement(delivery=d, outcome=o) for d, o in outcomes]

    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await broker.settle(settlements)

    assert 1 == shared_server.call("XLEN", "s:dlq")
    shared_server.call("DEL", "s:retry")
    assert [first, third] == await broker.settle(settlements)
    assert 1 == shared_server.call("ZCARD", "s:retry")


@pytest.mark.parametrize("outcome", [ACK, Retry(0.0), DeadLetter("no"), Release()])
async def test_a_server_that_takes_no_writes_for_now_is_asked_again(
    broker: RedisStreamsBroker, shared_server: Server, outcome: Outcome
):
    """No replicas, a full disk: it says nothing about the outcome, and giving that up would run the message twice."""
    await send(broker, b"1")
    held = await broker.fetch(SUB, 1, 0.0)
    shared_server.call("CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        with pytest.raises(ConnectionFailed, match="NOREPLICAS"):
            await settle(broker, held, outcome)
    finally:
        shared_server.call("CONFIG", "SET", "min-replicas-to-write", 0)
    await settle(broker, held, outcome)


# ------------------------------------------------------------------------------------------------------------- groups


async def test_a_retry_is_marked_for_its_group_only_where_there_are_several(
    broker: RedisStreamsBroker, shared_server: Server
):
    await send(broker, b"1")
    await settle(broker, await broker.fetch(SUB, 1, 0.0), Retry(0.0))
    assert b"retryGroup" not in shared_server.call("ZRANGE", "s:retry", 0, 0)[0]
    await broker.promote_due("s", 10)

    other = Subscription(source="s", group="other")
    (theirs,) = await broker.fetch(other, 1, 0.0)
    await settle(broker, [theirs], ACK)
    await settle(broker, await broker.fetch(SUB, 1, 0.0), Retry(0.0))
    assert b"retryGroup" in shared_server.call("ZRANGE", "s:retry", 0, 0)[0]
    await broker.promote_due("s", 10)
    assert [] == await broker.fetch(other, 1, 0.0)
    (mine,) = await broker.fetch(SUB, 1, 0.0)
    assert (2, {}) == (mine.attempt, mine.message.headers)
    await settle(broker, [mine], DeadLetter("no"))

    (letter,) = await broker.dead("s", 10)
    assert b"retryGroup" not in raw(shared_server, "XRANGE", "s:dlq", "-", "+")[0][1][1]
    assert 1 == await broker.requeue_dead("s", [letter.id])
    assert [1, 1] == [len(await broker.fetch(each, 10, 0.0)) for each in (SUB, other)]


async def test_a_message_is_deleted_by_the_last_group_that_acks_it(broker: RedisStreamsBroker, shared_server: Server):
    other = Subscription(source="s", group="other")
    assert [] == [*await broker.fetch(SUB, 1, 0.0), *await broker.fetch(other, 1, 0.0)]
    await send(broker, *[b"%d" % n for n in range(10)])
    mine = await broker.fetch(SUB, 10, 0.0)
    await settle(broker, mine[:5], ACK)
    theirs = await broker.fetch(other, 7, 0.0)
    await settle(broker, theirs[3:], ACK)
    assert 8 == shared_server.call("XLEN", "s")  # 3 and 4: acked by both
    await settle(broker, mine[5:], ACK)
    assert 6 == shared_server.call("XLEN", "s")  # 5 and 6 as well; 7, 8, 9 the other group has yet to see
    await settle(broker, theirs[:3], ACK)
    assert 3 == shared_server.call("XLEN", "s")


async def test_acked_messages_may_be_kept(make: Make, shared_server: Server):
    broker = make(retention="keep")
    await send(broker, b"1", b"2")
    await settle(broker, await broker.fetch(SUB, 10, 0.0), ACK)
    await broker.trim(SUB)
    assert 2 == shared_server.call("XLEN", "s")


async def test_a_settlement_says_exactly_which_leases_are_gone(broker: RedisStreamsBroker, shared_server: Server):
    await send(broker, *[b"%d" % n for n in range(5)])
    found = await broker.fetch(SUB, 5, 0.0)
    for stolen in (found[1], found[3]):
        shared_server.call("XACK", "s", "g", stolen.message.id)
    assert [found[1], found[3]] == await broker.settle([Settlement(delivery=d, outcome=ACK) for d in found])


async def test_an_entry_deleted_behind_our_backs_is_acked_away(make: Make, shared_server: Server):
    first, second = make(), make()
    await send(first, b"1", b"2")
    found = await first.fetch(Subscription(source="s", group="g", lease=0.01), 2, 0.0)
    shared_server.call("XDEL", "s", found[0].message.id)
    await asyncio.sleep(0.02)
    (left,) = await second.reclaim(Subscription(source="s", group="g", lease=0.01), 10)
    assert b"2" == left.message.body
    assert 1 == raw(shared_server, "XPENDING", "s", "g")[0]


async def test_a_group_that_was_destroyed_is_made_anew_at_the_beginning(
    broker: RedisStreamsBroker, shared_server: Server
):
    late = Subscription(source="s", group="g", start="next")
    assert [] == await broker.fetch(late, 1, 0.0)
    shared_server.call("XGROUP", "DESTROY", "s", "g")
    await send(broker, b"1")
    found = [*await broker.fetch(late, 1, 0.0), *await broker.fetch(late, 1, 0.0)]
    assert [b"1"] == [d.message.body for d in found]


@pytest.mark.parametrize("wipe", [("FLUSHALL",), ("DEL", "s"), ("XGROUP", "DESTROY", "s", "g")])
async def test_a_waiting_fetch_outlives_the_loss_of_its_group(
    broker: RedisStreamsBroker, shared_server: Server, wipe: Sequence[str]
):
    waiting = asyncio.create_task(broker.fetch(SUB, 1, 10.0))
    await blocked(shared_server)
    shared_server.call(*wipe)
    await send(broker, b"1")
    assert [b"1"] == [d.message.body for d in await asyncio.wait_for(waiting, 5)]


async def test_scripts_forgotten_by_the_server_are_sent_again(broker: RedisStreamsBroker, shared_server: Server):
    for _ in range(2):
        items = [Message(type="t", body=b"1", key=str(n)) for n in range(3)]
        await broker.publish([Outgoing(destination="s", message=m, once=0.001) for m in items])
        await settle(broker, await broker.fetch(SUB, 10, 0.0), Retry(0.0))
        assert 3 == (await broker.promote_due("s", 10)).count
        found = await broker.fetch(SUB, 10, 0.0)
        assert [] == await broker.extend(found, 30.0)
        await settle(broker, found, ACK)
        shared_server.call("SCRIPT", "FLUSH")
        await asyncio.sleep(0.002)


# ---------------------------------------------------------------------------------------------------------- publishing


async def test_a_message_that_cannot_be_written_spares_its_neighbours(broker: RedisStreamsBroker):
    bad = Message(type="t", body=b"1", headers={"x": object()})
    batch = [Message(type="t", body=b"0"), bad, Message(type="\ud800", body=b"1"), Message(type="t", body=b"2")]
    with pytest.raises(PublishError) as caught:
        await broker.publish([Outgoing(destination="s", message=m) for m in batch])
    assert [str, EncodeError, EncodeError, str] == [type(fate) for fate in caught.value.results]
    assert [b"0", b"2"] == [d.message.body for d in await broker.fetch(SUB, 10, 0.0)]


async def test_a_message_refused_by_the_server_spares_its_neighbours(broker: RedisStreamsBroker, shared_server: Server):
    shared_server.call("SET", "broken", "x")
    items = [Outgoing(destination=d, message=Message(type="t", body=b"1")) for d in ("s", "broken", "s")]
    with pytest.raises(PublishError) as caught:
        await broker.publish(items)
    assert [str, str] == [type(caught.value.results[i]) for i in (0, 2)]
    with pytest.raises(BrokerError, match="WRONGTYPE"):
        await broker.publish(items[1:2])


# ------------------------------------------------------------------------------------------------- leaving and crashing


async def test_closing_leaves_no_owner_behind(make: Make, shared_server: Server):
    broker = make()
    await send(broker, b"1", b"2")
    await broker.fetch(SUB, 1, 0.0)
    await broker.close()
    owners = [each[1] for each in raw(shared_server, "XINFO", "CONSUMERS", "s", "g")]
    assert [b"released"] == owners
    assert [b"1", b"2"] == [d.message.body for d in await drain(make())]


async def test_closing_leaves_every_group_that_can_be_reached(make: Make, shared_server: Server):
    """One shard may be on a node that is down: what is held of the others is given back all the same."""
    broker = make()
    for name in ("a", "s", "z"):
        await broker.publish([Outgoing(destination=name, message=Message(type="t", body=b"1"))])
        assert 1 == len(await broker.fetch(Subscription(source=name, group="g"), 1, 0.0))
    run = broker._client.run

    async def without_one(script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        if keys[0] == "a":
            raise ConnectionFailed("this node is down")
        return await run(script, keys, args)

    broker._client.run = without_one  # type: ignore[method-assign]
    await broker.close()
    held = [raw(shared_server, "XINFO", "CONSUMERS", name, "g") for name in ("a", "s", "z")]
    assert [1, 0, 0] == [sum(broker.identity.encode() in consumer for consumer in each) for each in held]


async def test_closing_ends_a_waiting_fetch(broker: RedisStreamsBroker, shared_server: Server):
    waiting = asyncio.create_task(broker.fetch(SUB, 1, 60.0))
    await blocked(shared_server)
    await broker.close()
    assert [] == await asyncio.wait_for(waiting, 5)
    with pytest.raises(BrokerError, match="closed"):
        await broker.fetch(SUB, 1, 0.0)
    await broker.open()
    assert [] == await broker.fetch(SUB, 1, 0.0)


async def test_what_a_cancelled_fetch_took_is_handed_out_by_the_next(broker: RedisStreamsBroker, shared_server: Server):
    for n in range(10):
        fetching = asyncio.create_task(broker.fetch(SUB, 10, 60.0))
        await blocked(shared_server)
        shared_server.call("XADD", "s", "*", "headers", '{"type":"t"}', "payload", n)  # the reply is on its way
        fetching.cancel()
        with suppress(asyncio.CancelledError):
            pytest.fail(f"it was not cancelled: {await fetching}")
        (delivery,) = await broker.fetch(SUB, 10, 5.0)
        assert (str(n).encode(), 1) == (delivery.message.body, delivery.count)
        await settle(broker, [delivery], ACK)


@pytest.mark.parametrize("script", [CLAIM, SETTLE], ids=lambda script: script.name)
async def test_what_a_fetch_that_failed_half_way_took_is_handed_out_by_the_next(
    broker: RedisStreamsBroker, shared_server: Server, monkeypatch: pytest.MonkeyPatch, script: Script
):
    """And it is not counted: with a limit of one attempt it would be taken for what kills workers."""
    await send(broker, b"1")
    if script is CLAIM:
        await settle(broker, await broker.fetch(SUB, 1, 0.0), Release())
    else:  # it is taken together with what is for others, which is acked before it is handed out
        shared_server.call("XADD", "s", "*", "headers", '{"type":"t","retryGroup":"another"}', "payload", "2")
    run, cut = broker._client.run, False

    async def cut_off(asked: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        nonlocal cut
        reply = await run(asked, keys, args)
        if asked is script and not cut:
            cut = True
            raise ConnectionFailed("the reply was lost")
        return reply

    monkeypatch.setattr(broker._client, "run", cut_off)
    with pytest.raises(ConnectionFailed):
        await broker.fetch(SUB, 10, 0.0)
    (delivery,) = await broker.fetch(SUB, 10, 0.0)
    assert (b"1", 1) == (delivery.message.body, delivery.count)


async def test_what_is_held_is_not_handed_back_when_another_fetch_is_cancelled(
    broker: RedisStreamsBroker, shared_server: Server
):
    await send(broker, b"held")
    held = await broker.fetch(SUB, 1, 0.0)
    fetching = asyncio.create_task(broker.fetch(SUB, 1, 60.0))
    await blocked(shared_server)
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    assert [] == await broker.fetch(SUB, 1, 0.0)
    await settle(broker, held, ACK)


async def test_the_leases_of_a_crashed_namesake_are_not_uncounted(make: Make, shared_server: Server):
    short = Subscription(source="s", group="g", lease=0.05)
    shared_server.call("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    ident = shared_server.call("XADD", "s", "*", "headers", '{"type":"t"}', "payload", "1")
    shared_server.call("XREADGROUP", "GROUP", "g", "me", "STREAMS", "s", ">")
    raw(shared_server, "XCLAIM", "s", "g", "me", 0, ident, "IDLE", 60_000, "JUSTID")
    heir = make(consumer="me")
    assert [] == await heir.fetch(short, 10, 0.0)
    await heir.close()
    (again,) = await make().reclaim(short, 10)
    assert 2 == again.count


async def test_a_fork_lives_in_another_thread(broker: RedisStreamsBroker):
    await send(broker, b"1", b"2")
    found = await broker.fetch(SUB, 2, 0.0)
    fork, lost = broker.fork(), list[Delivery[Any]]()

    async def renew() -> None:
        await fork.open()
        lost.extend(await fork.extend(found, 30.0))
        await fork.close()

    thread = threading.Thread(target=lambda: asyncio.run(renew()))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert [] == lost
    await settle(broker, found, ACK)


async def test_dead_owners_that_hold_nothing_are_forgotten(make: Make, shared_server: Server):
    """Those who were heard of lately stay, and so does the one who asks, however long it has been idle."""
    broker = make(owner_gone_after=0.5)
    short = Subscription(source="s", group="g", lease=0.001)
    await send(broker, b"1")
    await settle(broker, await broker.fetch(short, 10, 0.0), ACK)

    def take(name: str) -> None:
        shared_server.call("XADD", "s", "*", "headers", '{"type":"t"}', "payload", name)
        raw(shared_server, "XREADGROUP", "GROUP", "g", name, "COUNT", 1, "STREAMS", "s", ">")
        for pending in raw(shared_server, "XPENDING", "s", "g", "-", "+", 10, name) if name != "busy" else ():
            shared_server.call("XACK", "s", "g", pending[0])

    take("idle")
    take("busy")
    await asyncio.sleep(0.6)
    take("young")

    await broker.trim(short)

    owners = {each[1] for each in raw(shared_server, "XINFO", "CONSUMERS", "s", "g")}
    assert {b"busy", b"young", broker.identity.encode()} == owners


async def test_sweeping_removes_what_every_group_has_acked(make: Make, shared_server: Server):
    broker, keeper = make(), make(retention="keep")
    await send(keeper, *[b"1"] * 4)
    await settle(keeper, (await keeper.fetch(SUB, 4, 0.0))[:2], ACK)
    assert 4 == shared_server.call("XLEN", "s")
    assert 2 == await broker.trim(SUB)
    assert 2 == shared_server.call("XLEN", "s")


# ------------------------------------------------------------------------------------------------------------- servers


async def test_nothing_is_lost_when_the_server_is_killed_and_comes_back(make: Make, durable_server: OwnServer):
    broker = make(durable_server.url)
    await send(broker, *[b"%d" % n for n in range(20)])
    held = await broker.fetch(SUB, 5, 0.0)
    waiting = asyncio.create_task(broker.fetch(Subscription(source="empty"), 1, 30.0))
    await blocked(durable_server)
    durable_server.kill()
    with pytest.raises(ConnectionFailed):
        await asyncio.wait_for(waiting, 10)
    with pytest.raises(ConnectionFailed):
        await send(broker, b"lost, and it said so")
    durable_server.start()
    await settle(broker, held, ACK)
    assert sorted(b"%d" % n for n in range(5, 20)) == sorted(d.message.body for d in await drain(broker))


async def test_the_doctor_sees_what_is_unsafe(make: Make, durable_server: OwnServer, redis_url: str):
    broker = make(durable_server.url)
    assert {"ok"} == {finding.level for finding in await broker.diagnose()}
    durable_server.call("CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru")
    durable_server.call("CONFIG", "SET", "appendonly", "no")
    found = {finding.subject: finding.level for finding in await broker.diagnose()}
    assert ("danger", "danger") == (found["maxmemory-policy"], found["appendonly"])


async def test_the_doctor_says_what_it_may_not_see(make: Make, redis_url: str, shared_server: Server):
    shared_server.call("ACL", "SETUSER", "seer", "on", ">pw", "~*", "+@all", "-config")
    shared_server.call("ACL", "SETUSER", "blind", "on", ">pw", "~*", "+@all", "-config", "-info")
    try:
        for name, subject in (("seer", "appendfsync"), ("blind", "server")):
            broker = make(redis_url.replace("://", f"://{name}:pw@"))
            findings = {f.subject: f.level for f in await broker.diagnose()}
            assert "unknown" == findings[subject]
            await broker.close()
    finally:
        shared_server.call("ACL", "DELUSER", "seer", "blind")


async def test_without_permission_to_see_the_groups_nothing_is_deleted(
    make: Make, redis_url: str, shared_server: Server
):
    shared_server.call("ACL", "SETUSER", "poor", "on", ">pw", "~*", "+@all", "-xinfo")
    try:
        broker = make(redis_url.replace("://", "://poor:pw@"))
        await send(broker, b"1")
        found = await broker.fetch(SUB, 1, 0.0)
        with pytest.raises(AccessDenied):
            await settle(broker, found, ACK)
        assert (1, 1) == (shared_server.call("XLEN", "s"), raw(shared_server, "XPENDING", "s", "g")[0])
        await broker.close()
    finally:
        shared_server.call("ACL", "DELUSER", "poor")


async def test_a_message_is_started_soon_after_it_is_published(broker: RedisStreamsBroker, shared_server: Server):
    waits: list[float] = []
    for _ in range(20):
        waiting = asyncio.create_task(broker.fetch(SUB, 1, 10.0))
        await blocked(shared_server)
        start = time.perf_counter()
        await send(broker, b"1")
        await settle(broker, await waiting, ACK)
        waits.append(time.perf_counter() - start)
    assert sorted(waits)[10] < 0.05


async def test_what_another_hands_back_is_seen_while_waiting(make: Make, shared_server: Server):
    first, second = make(), make(look_around=0.1)
    await send(first, b"1")
    held = await first.fetch(SUB, 1, 0.0)
    waiting = asyncio.create_task(second.fetch(SUB, 1, 30.0))
    await blocked(shared_server)
    await settle(first, held, Release())
    (found,) = await asyncio.wait_for(waiting, 5)
    assert 1 == found.count


# --------------------------------------------------------------------------------------------------------------- tools


async def send(broker: RedisStreamsBroker, *bodies: bytes) -> Sequence[str]:
    return await broker.publish([Outgoing(destination="s", message=Message(type="t", body=b)) for b in bodies])


async def settle(broker: RedisStreamsBroker, deliveries: Sequence[Delivery[Any]], outcome: Outcome) -> None:
    assert [] == await broker.settle([Settlement(delivery=d, outcome=outcome) for d in deliveries])


async def drain(broker: RedisStreamsBroker) -> list[Delivery[Any]]:
    found: list[Delivery[Any]] = []
    while batch := await broker.fetch(SUB, 100, 0.0):
        found += batch
    return found


async def blocked(server: Server) -> None:
    """Wait until some client waits on the server."""
    async with asyncio.timeout(10):
        while not server.call("INFO", "clients")["blocked_clients"]:
            await asyncio.sleep(0.002)


def raw(server: Server, *command: str | bytes | int) -> Any:
    """The reply as the server gives it: a client makes something else of it."""
    return server.call("EVAL", "return redis.call(unpack(ARGV))", 0, *command)


def astuple(promoted: Any) -> tuple[int, float | None]:
    return promoted.count, promoted.next_due


# ------------------------------------------------------------------------------------------------ newer server commands


async def test_a_server_without_xackdel_is_asked_for_it_once(broker: RedisStreamsBroker, shared_server: Server):
    """What a newer server does with it is in the conformance suite, which runs on one if there is one."""
    with suppress(redis.ResponseError):
        shared_server.call("XACKDEL", "s", "g", "ACKED", "IDS", 1, "1-0")
        pytest.skip("this server has it")
    known: list[bool] = []
    for _ in range(3):
        known.append(broker._native.known)
        await send(broker, b"1", b"2")
        await settle(broker, await broker.fetch(SUB, 2, 0.0), ACK)
    assert 0 == shared_server.call("XLEN", "s")
    assert [True, False, False] == known


async def test_an_outcome_that_the_server_stalls_until_another_one_has_the_message_is_refused(
    durable_server: OwnServer,
):
    """It was sent within the lease, and run behind a claim that had been waiting as well."""
    sub = replace(SUB, lease=1.0)
    old, other = (RedisStreamsBroker.from_url(durable_server.url) for _ in range(2))
    for broker in (old, other):
        await broker.open()
        await broker.fetch(sub, 0, 0.0)
    await send(old, b"1", b"2")
    late, done = await old.fetch(sub, 2, 0.0)
    assert [] == await old.settle([Settlement(delivery=done, outcome=ACK)])  # the script and its connection are known
    await other.reclaim(sub, 1)
    await asyncio.sleep(sub.lease * 0.6)
    with durable_server.frozen():
        claiming = asyncio.create_task(other.reclaim(sub, 10))
        await asyncio.sleep(sub.lease * 0.1)
        settling = asyncio.create_task(old.settle([Settlement(delivery=late, outcome=ACK)]))
        await asyncio.sleep(sub.lease * 0.6)
    (taken,) = await claiming
    assert [late] == list(await settling)
    assert [] == await other.settle([Settlement(delivery=taken, outcome=ACK)])
    await old.close()
    await other.close()


@pytest.mark.parametrize(("monotonic", "sure"), [(9.9, 60_000), (10.0, 0)])
async def test_an_outcome_is_checked_from_the_end_of_its_lease_on_by_either_clock(monotonic: float, sure: int):
    sent: list[Any] = []

    class Client:
        async def run(self, script: Script, keys: Any, args: Any) -> Any:
            sent.append((script.name, args[2]))
            return [], b"", [], b""

    member, receipt = Membership(SUB, Keys()), Receipt(deadline=10.0)
    member.heard(b"58000", 8.0)
    member.held["1-0"] = receipt
    message = Message(id="1-0", type="t", body=b"1")
    delivery = Delivery(message=message, source="s", group="g", receipt=receipt, count=1)
    batch, client = Batch(member, "owner", 0.0, GLIDE_KIT), Client()
    assert [] == batch.fill([Settlement(delivery=delivery, outcome=ACK)])
    assert [] == await batch.apply(client, Native(), keep=False, monotonic=monotonic)  # type: ignore[arg-type]
    assert [("settle", sure)] == sent


async def test_a_retry_that_does_not_fit_into_the_servers_memory_waits_for_it_and_the_work_is_done_once(
    durable_server: OwnServer,
):
    broker = RedisStreamsBroker.from_url(durable_server.url)
    runs: list[int] = []
    twice = asyncio.Event()

    async def handle(payload: Any, context: Context) -> Retry | None:
        runs.append(context.attempt)
        if context.attempt == 0:
            durable_server.call("CONFIG", "SET", "maxmemory", "1")
            return Retry(0.0)
        twice.set()
        return None

    await send(broker, b"1")
    consumer = Consumer(broker, "s", object, handle, claim=Claim(min_idle=0.6, interval=0.1))
    async with Worker(consumer) as worker:
        async with asyncio.timeout(10):
            while not runs or worker.ready:
                await asyncio.sleep(0.01)
        await asyncio.sleep(1.5)  # more than two leases: whoever let go of it would run it again
        assert ([0], False) == (runs, worker.ready)
        durable_server.call("CONFIG", "SET", "maxmemory", "0")
        await asyncio.wait_for(twice.wait(), 10)
        assert ([0, 1], True) == (runs, worker.ready)
