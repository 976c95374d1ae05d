"""Events as their users write them: checked by mypy and pyright, never run."""

from __future__ import annotations

import re
from typing import Any, assert_type

import msgspec

from penstock import (
    BatchedEventPublisher,
    EventBatch,
    EventConsumer,
    EventHeader,
    EventPublisher,
    EventValidator,
    FailedEvent,
    Route,
    Validity,
    open_broker,
)


class UserCreated(msgspec.Struct):
    name: str


class Own:
    async def validate(self, event_type: str, body: Any) -> Validity:
        return Validity(valid=bool(event_type and body))


async def publishing() -> None:
    broker = open_broker("memory://")
    publisher = EventPublisher({"a": broker}, origin="s", validator=EventValidator({"user.created": UserCreated}))
    assert_type(await publisher.publish("user.created", UserCreated("x"), validator=Own()), str)
    routes = [Route("user.*", prefix="p:"), Route(re.compile("^a"), "a", priority="high")]
    async with BatchedEventPublisher(broker, origin="s", routes=routes, batch=EventBatch(group_by=0)) as batched:
        assert_type(await batched.add("a", 1), str)
        assert_type(batched.failed_messages(), list[FailedEvent])


def consuming() -> EventConsumer:
    consumer = EventConsumer(open_broker("memory://"), stream="user-events", group="g", validator=Own())

    @consumer.on("user.created")
    async def created(event: UserCreated, header: EventHeader) -> None:
        assert_type(header.attempt, int)
        assert_type(event.name, str)

    consumer.remove_handler("user.created")
    consumer.add_handler("user.created", created, UserCreated)

    @consumer.on(re.compile("^order"))
    def ordered(body: dict[str, Any]) -> None: ...

    assert_type(ordered({}), None)
    return consumer
