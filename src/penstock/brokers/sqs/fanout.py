"""Fan-out by SNS: a topic for each source, a queue for each group, and the queue subscribed to the topic.

What is published goes to the topic, which copies it into the queue of each group with raw delivery, so that it lies there
as if it had been sent there. Retries, releases and dead letters concern a group's own queue only. A topic keeps nothing:
a group sees what is published from its first fetch on. SNS knows no delay: a message for later says when it is due, and
the queues' readers have it wait.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...clock import Clock
from ...errors import AccessDenied, BrokerError
from .batches import chunked, failure
from .connection import Connection, QueueMissing
from .names import Names, Queues
from .options import SqsOptions

MAX_PUBLISH = 256 * 1024  # bytes of one message, and of one call


class Topics:
    """Topics by source, and who is subscribed to them."""

    def __init__(self, options: SqsOptions, names: Names, queues: Queues, clock: Clock) -> None:
        self._connection = Connection(options, clock, "sns")
        self._names, self._queues = names, queues
        self._arns: dict[str, str] = {}
        self._subscribed: set[str] = set()

    async def close(self) -> None:
        self._subscribed.clear()
        await self._connection.close()

    async def subscribe(self, source: str, queue: str, call: Connection) -> None:
        """Have the queue get what is published from now on. Idempotent, and asked of the service once."""
        if queue in self._subscribed:
            return
        url, topic = await self._queues.url(queue), await self._arn(source)
        answer = await call.short("get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn", "Policy"])
        arn: str = answer["Attributes"]["QueueArn"]
        policy = _allowing(answer["Attributes"].get("Policy"), arn, topic)
        if policy is not None:
            await call.short("set_queue_attributes", QueueUrl=url, Attributes={"Policy": policy})
        await self._connection.short(
            "subscribe", TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"}
        )
        self._subscribed.add(queue)

    async def send(self, source: str, entries: Sequence[dict[str, Any]]) -> list[str | Exception]:
        """The id of each entry, or why it was not published."""
        fates: list[str | Exception] = [BrokerError("the service said nothing of it")] * len(entries)

        async def run(places: Sequence[int]) -> None:
            batch = [_published(str(place), entries[place]) for place in places]
            try:
                answer = await self._publish(source, batch)
            except BrokerError as error:
                for place in places:
                    fates[place] = error
                return
            for done in answer.get("Successful", ()):
                fates[int(done["Id"])] = done["MessageId"]
            for failed in answer.get("Failed", ()):
                fates[int(failed["Id"])] = failure(source, failed)

        await asyncio.gather(*map(run, chunked(entries, fates, MAX_PUBLISH)))
        return fates

    async def _publish(self, source: str, batch: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        arn = await self._arn(source)
        try:
            return await self._connection.short("publish_batch", TopicArn=arn, PublishBatchRequestEntries=batch)
        except QueueMissing:  # the topic has vanished
            self._arns.pop(source, None)
            arn = await self._arn(source)
            return await self._connection.short("publish_batch", TopicArn=arn, PublishBatchRequestEntries=batch)

    async def _arn(self, source: str) -> str:
        if source not in self._arns:
            name = self._names.topic(source)
            try:
                self._arns[source] = (await self._connection.short("create_topic", Name=name))["TopicArn"]
            except AccessDenied as error:
                raise AccessDenied(
                    f"{error}; fan-out needs the permission sns:CreateTopic, to make or find a topic"
                ) from error
        return self._arns[source]


def _published(ident: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"Id": ident, "Message": entry["MessageBody"], "MessageAttributes": entry["MessageAttributes"]}


def _allowing(policy: str | None, queue: str, topic: str) -> str | None:
    """The queue's policy with leave for the topic to send to it; ``None`` if it says so already."""
    document: dict[str, Any] = json.loads(policy) if policy else {"Version": "2012-10-17", "Statement": []}
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue,
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }
    if statement in document["Statement"]:
        return None
    document["Statement"] = [*document["Statement"], statement]
    return json.dumps(document)
