"""The same thing asked for three times: sent once, and, where it was sent twice all the same, run once."""

import asyncio

from penstock import Consumer, Deduplicate, Idempotency, Producer, Worker, open_broker, open_store

URL = "sqlite:///payments.db"

broker, store = open_broker(URL), open_store(URL)
charged: list[str] = []


async def charge(job: dict) -> None:
    charged.append(job["order"])
    print(f"charging order {job['order']}")


payments = Consumer(broker, "payments", dict, charge, middleware=[Deduplicate(store, done=3600)])


async def main() -> None:
    careful = Producer(broker, "payments", dict, idempotency=Idempotency(ttl=3600))
    ids = {await careful.send({"order": "A1"}, key="A1") for _ in range(3)}
    print(f"asked three times, sent as {ids}")

    careless = Producer(broker, "payments", dict)
    await careless.send({"order": "A1"}, key="A1")
    await careless.send({"order": "B2"}, key="B2")

    async with Worker(payments):
        while payments.counters.acked < 3:
            await asyncio.sleep(0.01)
    await store.close()
    print(f"three messages, charged: {charged}")
    assert sorted(charged) == ["A1", "B2"]


asyncio.run(main())
