"""Names of queues: those of ours in SQS's alphabet, and where they are.

SQS takes letters, digits, ``-`` and ``_``, 80 of them at most. A colon (``emails:high``) is written ``--``; anything
else is refused. A FIFO queue's name ends in ``.fifo``, which is added where the broker's queues are FIFO. The dead
letters of ``emails`` are in ``emails-dead``, those of ``orders.fifo`` in ``orders-fifo-dead``: standard queues both.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ...errors import AccessDenied, BrokerError, ConfigurationError
from .connection import Connection, QueueMissing
from .options import SqsOptions

T = TypeVar("T")

FIFO, DEAD = ".fifo", "-dead"
MAX_NAME = 80
RETENTION = 14 * 86_400  # seconds: the longest that there is
_LEGAL = re.compile(r"[A-Za-z0-9_-]+(\.fifo)?")


class Names:
    """Sources of ours as queues of SQS, and back."""

    def __init__(self, options: SqsOptions) -> None:
        self._prefix, self._fifo, self._fanout = options.prefix, options.fifo, options.fanout == "sns"

    def queue(self, source: str, group: str | None = None) -> str:
        """The queue of a source; with fan-out, of one group of it."""
        self._unlike_others(source, group)
        name = source.removesuffix(FIFO).replace(":", "--")
        if group is not None and self._fanout:
            name = f"{name}__{group.replace(':', '--')}"
        return self._checked(source, name + (FIFO if self._fifo or source.endswith(FIFO) else ""))

    def topic(self, source: str) -> str:
        """The topic of a source, where each group has a queue of its own."""
        return self._checked(source, source.replace(":", "--"))

    def dead(self, source: str) -> str:
        """The queue of a source's dead letters."""
        return self._checked(source, self.queue(source).replace(FIFO, "-fifo") + DEAD, plain=True)

    def source(self, queue: str) -> str | None:
        """The source whose queue it is; ``None`` for a queue of dead letters or with another prefix."""
        if not queue.startswith(self._prefix) or queue.endswith(DEAD):
            return None
        name = queue[len(self._prefix) :]
        if self._fanout:
            name = name.partition("__")[0]
        return (name.removesuffix(FIFO) if self._fifo else name).replace("--", ":")

    def _unlike_others(self, source: str, group: str | None) -> None:
        """Two streams must not have one queue, nor a stream that of another one's dead letters."""
        parts = [source, group or ""] if self._fanout else [source]
        if source.endswith(DEAD) or any("--" in part or (self._fanout and "__" in part) for part in parts):
            raise ConfigurationError(
                f"on SQS '--' stands for a colon, names that end in {DEAD!r} are those of dead letters, and with fan-out"
                f" '__' separates stream and group; got {source!r}"
                + (f" and {group!r}" if self._fanout and group else "")
            )

    def _checked(self, source: str, name: str, *, plain: bool = False) -> str:
        full = name if plain else self._prefix + name
        if not source or _LEGAL.fullmatch(full) is None or len(full) > MAX_NAME:
            raise ConfigurationError(
                f"the name of an SQS queue has letters, digits, '-', '_' and ':' (written '--'), and in all"
                f" {MAX_NAME} characters at most; {source!r} would be {full!r}"
            )
        return full


class Queues:
    """Where the queues are: asked for once each, and made where that is allowed."""

    def __init__(self, connection: Connection, options: SqsOptions) -> None:
        self._connection, self._options = connection, options
        self._urls: dict[str, str] = {}

    async def url(self, name: str) -> str:
        """The address of a queue, which exists then."""
        if (known := self._urls.get(name)) is not None:
            return known
        url = await self.find(name)
        if url is None:
            url = await self._make(name)
        self._urls[name] = url
        return url

    async def find(self, name: str) -> str | None:
        """The address of a queue, if there is one."""
        if (known := self._urls.get(name)) is not None:
            return known
        try:
            self._urls[name] = (await self._connection.short("get_queue_url", QueueName=name))["QueueUrl"]
        except QueueMissing:
            return None
        except AccessDenied as error:
            raise AccessDenied(f"{error}; the queue {name!r} needs the permission sqs:GetQueueUrl") from error
        return self._urls[name]

    async def on(self, name: str, ask: Callable[[str], Awaitable[T]]) -> T:
        """Call with the queue's address; if the queue has vanished since it was last seen, make it anew, once."""
        url = await self.url(name)
        try:
            return await ask(url)
        except QueueMissing:
            self._urls.pop(name, None)
        return await ask(await self.url(name))

    def forget(self, name: str) -> None:
        """It has vanished."""
        self._urls.pop(name, None)

    async def _make(self, name: str) -> str:
        if not self._options.create:
            raise BrokerError(
                f"there is no queue {name!r} at {self._options.url}; create it, or open the broker with create=True"
            )
        attributes = {"MessageRetentionPeriod": str(RETENTION), "MaximumMessageSize": str(self._options.max_message)}
        if name.endswith(FIFO):  # the limits of a FIFO queue are then each group's, not the whole queue's
            throughput = {"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}
            attributes |= {"FifoQueue": "true", **throughput}
        try:
            made = await self._connection.short("create_queue", QueueName=name, Attributes=attributes)
        except AccessDenied as error:
            raise AccessDenied(
                f"{error}; the queue {name!r} does not exist: create it (FIFO if its name says so), or allow"
                " sqs:CreateQueue"
            ) from error
        url: str = made["QueueUrl"]
        return url
