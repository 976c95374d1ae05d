"""The jobs of the demo: what a user's own module looks like, but that each execution is put on record.

``penstock worker penstock.cli.demo_jobs:consumer --factory`` runs it, told by the environment where broker, stream and
record are.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from ..app import open_broker
from ..consumer import Consumer
from ..context import Context
from ..outcome import Ack, DeadLetter, Outcome
from ..plan import Claim
from ..retry import ExponentialJitter, RetryPolicy
from .demo_record import Record

GROUP = "mailers"
TYPE = "email.send"
LEASE = 3.0
MAX_ATTEMPTS = 4


class Email(msgspec.Struct, frozen=True, kw_only=True):
    """One job. ``busy``: how often the mail server refuses it before it takes it. ``seconds``: how long it takes."""

    number: int
    to: str
    busy: int = 0
    seconds: float = 0.05


class Mailer:
    """A mail server with moods. It knows the wrong addresses once the file ``mended`` exists."""

    def __init__(self, record: Record, mended: Path) -> None:
        self._record, self._mended = record, mended

    async def send(self, email: Email, context: Context) -> Outcome:
        """Send one email, or fail in one of the ways that the demo shows."""
        run = self._record.start(email.number, context.attempt)
        await asyncio.sleep(email.seconds)
        mended = self._mended.exists()
        if email.to.endswith("@full.example") and not mended:
            last = context.attempt + 1 >= MAX_ATTEMPTS
            self._record.end(run, "dead" if last else "retry")
            raise OSError("mailbox full")
        if context.attempt < email.busy:
            self._record.end(run, "retry")
            raise ConnectionError("mail server busy")
        if "@" not in email.to and not mended:
            self._record.end(run, "dead")
            return DeadLetter("no such address", meta={"to": email.to})
        self._record.end(run, "done")
        return Ack()


def consumer() -> Consumer[Email]:
    """The demo's consumer."""
    place = Path(os.environ["DEMO_PLACE"])
    mailer = Mailer(Record(place / "record"), place / "mended")
    return Consumer(
        open_broker(os.environ["DEMO_BROKER"]),
        os.environ["DEMO_STREAM"],
        Email,
        mailer.send,
        group=GROUP,
        types=TYPE,
        concurrency=4,
        retry=RetryPolicy(max_attempts=MAX_ATTEMPTS, backoff=ExponentialJitter(base=0.4, cap=2)),
        claim=Claim(min_idle=LEASE, interval=0.5),
    )
