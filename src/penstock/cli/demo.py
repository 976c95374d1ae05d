"""``penstock demo``: what the library promises, shown with real processes in a few seconds.

1. A typed producer sends emails, some of them for later; two workers run them; a busy mail server causes retries.
2. Two emails cannot be sent: they become dead letters, with the reason.
3. A worker is killed in the middle of a job; another one takes it over when its lease has lapsed.
4. The reason is mended and the dead letters are requeued: now they succeed.
5. The workers stop cleanly, and the books are checked.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from ..app import open_broker
from ..broker import DeadMessage, StreamStats
from ..config import mask_url
from ..errors import ConfigurationError, UnsupportedFeature
from ..inspector import Inspector
from ..producer import Producer, Send
from . import codes
from .demo_fleet import DemoFailed, Fleet
from .demo_jobs import LEASE, TYPE, Email
from .demo_record import Books, Entry, Summary, Tally, read, summarize
from .demo_stage import Stage, say_summary
from .terminal import say_json

EMAILS = 300
PATIENCE = 25.0  # seconds until an act that does not come to its end is broken off
LOOK = 0.05  # seconds between two looks at the record

NEXT = """\
What to look at next:
  penstock demo --broker redis://localhost:6379   the same on Redis or Valkey
  penstock worker myapp.jobs                      run every Consumer of your own module
  penstock doctor --broker URL                    is that server safe for jobs?"""


@click.command()
@click.option("-b", "--broker", "url", metavar="URL", help="Run it there, instead of on SQLite in a temporary folder.")
@click.option("--stream", default="penstock-demo", show_default=True, help="Stream to use; it must be empty.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON; the story goes to stderr.")
def demo(url: str | None, stream: str, as_json: bool) -> int:
    """See it work: jobs, retries, dead letters, a crash; under 30 seconds.

    Exits with 1 if a single number does not add up.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        place = Path(folder)
        with Stage(quiet=as_json) as stage:
            summary = asyncio.run(_perform(stage, url or f"sqlite:///{place / 'jobs.db'}", stream, place))
    say_summary(summary, err=as_json)
    if as_json:
        say_json(summary)
    else:
        click.echo(f"\n{NEXT}")
    return codes.FAILED if summary.problems else codes.OK


async def _perform(stage: Stage, url: str, stream: str, place: Path) -> Summary:
    """The whole demo; whatever happens, no worker and no message stays behind."""
    broker = open_broker(url)
    if not broker.capabilities.shared:
        raise UnsupportedFeature(f"{broker.url} lives in one process; the demo's workers are processes of their own")
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with Inspector(broker) as inspector:
        if left := _left((await inspector.stats(stream))[0]):
            raise ConfigurationError(
                f"there are {left} messages in {stream!r}; another demo may be running: use --stream NAME, or purge it"
            )
        try:
            async with Fleet(url, stream, place) as fleet:
                stage.tell(f"broker: {mask_url(broker.url)}")
                play = Play(stage, fleet, inspector, Producer(broker, stream, Email, default_type=TYPE), place)
                return await play.perform()
        finally:
            await inspector.purge(stream)
            await inspector.purge_dead(stream, [letter.id async for letter in inspector.each_dead(stream)])


class Play:
    """The acts, one after the other."""

    def __init__(
        self, stage: Stage, fleet: Fleet, inspector: Inspector, producer: Producer[Email], place: Path
    ) -> None:
        self._stage, self._fleet, self._inspector, self._producer = stage, fleet, inspector, producer
        self._place, self._stream = place, producer.stream
        self._tally, self._offset = Tally(), 0
        self._sent: list[int] = []
        self._killed: set[int] = set()

    async def perform(self) -> Summary:
        """All acts; the books are drawn up from what each of them has counted."""
        await self._produce()
        dead = await self._dead_letters()
        await self._crash()
        requeued = await self._requeue()
        exits = await self._stop()
        self._look()
        books = Books(
            sent=self._sent,
            dead=dead,
            requeued=requeued,
            left=_left((await self._inspector.stats(self._stream))[0]),
            killed=frozenset(self._killed),
            exits=exits,
        )
        return summarize(self._tally, books, self._stage.seconds)

    async def _produce(self) -> None:
        self._stage.act("1. A producer sends, two workers run, a busy mail server causes retries")
        for _ in range(2):
            pid = await self._fleet.start()
            self._stage.tell(f"worker {pid} started")
        emails = [
            Email(number=n, to=f"user{n}@example.org", busy=n % 10 % 3 if n % 10 < 3 else 0) for n in range(EMAILS)
        ]
        later = [Send(email, delay=1.0 + email.number % 10 / 10) for email in emails[-20:]]
        wrong = [Email(number=EMAILS, to="nobody"), Email(number=EMAILS + 1, to="someone@full.example")]
        ids = await self._producer.send_many([*wrong, *emails[:-20], *later])
        self._sent += [email.number for email in (*emails, *wrong)]
        self._stage.tell(f"{len(ids)} emails sent, {len(later)} of them to be delivered in 1 to 2 seconds")
        await self._until(lambda: self._tally.endings["retry"] > 0, "the first retry")
        first = next(entry for entry in self._tally.ends.values() if entry.ending == "retry")
        self._stage.tell(f"retry: job {first.job} failed, comes back after a pause")
        await self._until(lambda: len(self._tally.jobs_done) >= EMAILS, f"all {EMAILS} good emails")

    async def _dead_letters(self) -> int:
        self._stage.act("2. Two emails cannot be sent: dead letters")
        await self._until(lambda: self._tally.endings["dead"] >= 2, "two dead letters")
        letters = await self._letters(2)
        for letter in letters:
            error = f" ({letter.error})" if letter.error else ""
            self._stage.tell(f"dead: {letter.message.body.decode()}: {letter.reason}{error}")
        return (await self._inspector.stats(self._stream))[0].dead

    async def _crash(self) -> None:
        self._stage.act("3. A worker is killed with -9 in the middle of a job")
        job = len(self._sent)
        slow = Email(number=job, to="board@example.org", seconds=2.0)
        others = [Email(number=job + 1 + n, to=f"more{n}@example.org", seconds=0.1) for n in range(60)]
        await self._producer.send_many([slow, *others])
        self._sent += [email.number for email in (slow, *others)]
        victim = (await self._begun(job)).pid
        self._stage.tell(f"job {job} and others run in worker {victim}, which is killed now")
        self._killed.add(victim)
        await self._fleet.kill(victim)
        self._stage.tell(f"worker {await self._fleet.start()} started in its place")
        self._stage.tell(
            f"the leases of the dead worker lapse in at most {LEASE:g} seconds; meanwhile the others go on"
        )
        again = await self._begun(job, but=victim)
        self._stage.tell(f"job {job} recovered by worker {again.pid}, attempt {again.attempt + 1}")
        everything = len(self._sent) - 2  # but the dead letters
        await self._until(lambda: len(self._tally.jobs_done) >= everything, "all jobs of the killed worker")
        self._stage.tell(f"all {len(self._tally.crashed)} jobs that broke off are done")

    async def _requeue(self) -> int:
        self._stage.act("4. The reason is mended, the dead letters are requeued")
        (self._place / "mended").touch()
        ids = [letter.id async for letter in self._inspector.each_dead(self._stream)]
        requeued = await self._inspector.requeue(self._stream, ids)
        self._stage.tell(f"{requeued} dead letters requeued")
        await self._until(lambda: len(self._tally.jobs_done) >= len(self._sent), "the requeued emails")
        self._stage.tell("they are done now")
        return requeued

    async def _stop(self) -> list[int]:
        self._stage.act("5. SIGTERM: the workers stop cleanly")
        exits = await self._fleet.stop()
        self._stage.tell(f"exit codes: {', '.join(map(str, exits))}")
        return exits

    async def _letters(self, count: int) -> Sequence[DeadMessage]:
        """The dead letters, when there are ``count``: the broker hears of them a moment after the record."""
        for _ in range(round(PATIENCE / LOOK)):
            letters = await self._inspector.dead(self._stream)
            if len(letters) >= count:
                return letters
            await asyncio.sleep(LOOK)
        raise DemoFailed(f"waited {PATIENCE:g} seconds in vain for {count} dead letters in the broker")

    async def _begun(self, job: int, *, but: int | None = None) -> Entry:
        """The execution of a job that has begun, in another worker than ``but``."""

        def found() -> list[Entry]:
            return [entry for entry in self._tally.starts if entry.job == job and entry.pid != but]

        await self._until(lambda: bool(found()), f"job {job} to begin")
        return found()[0]

    async def _until(self, reached: Callable[[], bool], what: str) -> None:
        deadline = self._stage.seconds + PATIENCE
        self._look()
        while not reached():
            if fallen := self._fleet.fallen():
                raise DemoFailed(fallen)
            if self._stage.seconds > deadline:
                raise DemoFailed(f"waited {PATIENCE:g} seconds in vain for {what}")
            await asyncio.sleep(LOOK)
            self._look()

    def _look(self) -> None:
        entries, self._offset = read(self._place / "record", self._offset)
        self._tally.add(entries)
        self._stage.show(self._tally, len(self._sent), len(self._fleet.pids))


def _left(stats: StreamStats) -> int:
    """Messages of any kind that are still there."""
    return stats.size + stats.delayed + stats.dead
