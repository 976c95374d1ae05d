"""One leader, and another one soon after it is gone."""

from __future__ import annotations

from penstock.clients.opening import redis_client
from penstock.sidekiq.leader import Leader
from tests.servers.redis_server import Server


async def test_there_is_one_leader_until_it_resigns_or_falls_silent(redis_server: Server):
    redis_server.flush()
    client = redis_client(redis_server.url)
    first, second = Leader(client, "a:1:x"), Leader(client, "b:2:y")
    assert await first.campaign()
    assert not await second.campaign()
    assert await first.campaign()
    assert b"a:1:x" == redis_server.call("GET", "dear-leader")
    assert 0 < redis_server.call("TTL", "dear-leader") <= 20
    await second.resign()
    assert b"a:1:x" == redis_server.call("GET", "dear-leader")
    await first.resign()
    assert (False, True) == (first.leading, await second.campaign())
    redis_server.call("DEL", "dear-leader")  # it fell silent
    assert await first.campaign()
    assert not await second.campaign()
    await client.close()
