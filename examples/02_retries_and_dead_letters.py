"""Jobs that fail: one for a while, one for ever, one that is hopeless; then the dead are looked at and put back.

The jobs are in a SQLite file, so they would still be there if the program ended half-way.
"""

import asyncio

import msgspec

from penstock import Consumer, Context, DeadLetter, Delays, Inspector, Producer, RetryPolicy, Worker, open_broker

URL = "sqlite:///orders.db"

broker = open_broker(URL)
out_of_stock = {"unicorn"}


class Order(msgspec.Struct):
    item: str


async def ship(order: Order, context: Context) -> DeadLetter | None:
    print(f"shipping {order.item}, execution {context.attempt + 1} of {context.max_attempts}")
    if order.item == "":
        return DeadLetter("no item")  # another attempt would not help
    if order.item in out_of_stock:
        raise LookupError(f"no {order.item} in stock")
    if order.item == "book" and context.attempt == 0:
        raise ConnectionError("the warehouse does not answer")
    return None


shipping = Consumer(
    broker,
    "orders",
    Order,
    ship,
    group="warehouse",
    retry=RetryPolicy(max_attempts=3, backoff=Delays([0.05, 0.1])),
)


async def until(executions: int) -> None:
    while shipping.counters.processed < executions:
        await asyncio.sleep(0.01)


async def main() -> None:
    await Producer(broker, "orders", Order).send_many([Order("book"), Order("unicorn"), Order("")])

    async with Worker(shipping):
        await until(2 + 3 + 1)

    async with Inspector(open_broker(URL)) as inspector:
        letters = await inspector.dead("orders")
        for letter in letters:
            print(f"dead: {letter.message.body.decode()}: {letter.reason}; {letter.error}")
        out_of_stock.clear()  # a delivery of unicorns has come in
        await inspector.requeue("orders", [letter.id for letter in letters if letter.reason == "maxAttempts(3)"])

    async with Worker(shipping):
        await until(1)

    async with Inspector(open_broker(URL)) as inspector:
        (stats,) = await inspector.stats("orders")
    print(f"left: {stats.size} waiting, {stats.delayed} delayed, {stats.dead} dead")
    assert (stats.size, stats.delayed, stats.dead) == (0, 0, 1)


asyncio.run(main())
