"""Several message types on one stream, each with its handler; a type keeps its former names; what does not fit is dead.

A message type is a name that you choose, never a Python path: move and rename functions as you like.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from penstock import Consumer, Inspector, Producer, Worker, open_broker
from penstock.errors import ValidationError

broker = open_broker("memory://users")


@dataclass
class Registered:
    email: str
    age: int = 0


@dataclass
class Deleted:
    email: str


async def welcome(event: Registered) -> None:
    print(f"welcome, {event.email}")


async def say_goodbye(event: Deleted) -> None:
    print(f"goodbye, {event.email}")


users = Consumer(broker, "users", Registered, welcome, types=["user.registered", "user.signup"])  # the second: of old
users.handle(say_goodbye, Deleted, types="user.deleted")


async def main() -> None:
    registered = Producer(broker, "users", Registered, default_type="user.registered")
    await registered.send(Registered("ada@example.com"))
    await registered.send(Registered("grace@example.com"), type="user.signup")
    await Producer(broker, "users", Deleted, default_type="user.deleted").send(Deleted("ada@example.com"))
    try:
        await registered.send(Registered("radia@example.com", age="unknown"))  # type: ignore[arg-type]
    except ValidationError as error:
        print(f"not sent: {error}")
    # Somebody else's program, without our types, sends what it likes
    await Producer(broker, "users", Any).send({"email": 42}, type="user.registered")

    async with Worker(users):
        while users.counters.processed < 4:
            await asyncio.sleep(0.01)

    async with Inspector(open_broker("memory://users")) as inspector:
        (letter,) = await inspector.dead("users")
    print(f"dead: {letter.reason}: {letter.error}")
    assert letter.reason == "invalid"


asyncio.run(main())
