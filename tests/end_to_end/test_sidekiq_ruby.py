"""Ruby's Sidekiq and ours on one Redis: each runs, sees, retries and moves what the other has written.

The packaged Ruby is 6.4, which reads times as float seconds only: hence ``timestamps="float"`` throughout.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from penstock import Constant, Consumer, Context, DeadLetter, Options, Prefetch, RetryPolicy, Worker, open_broker
from penstock.broker import Outgoing, Subscription, SupportsSchedule
from penstock.brokers.sidekiq import SidekiqBroker
from penstock.brokers.sidekiq.processes import ProcessInfo, WorkEntry
from penstock.message import Message
from tests.end_to_end.fleet import Fleet
from tests.servers.redis_server import Server
from tests.servers.ruby_sidekiq import RubySidekiq

JOBS = int(os.environ.get("PENSTOCK_E2E_MIXED_JOBS", "20000"))
WITHIN = 60.0 + JOBS / 200

MakeFleet = Callable[..., Fleet]
Handler = Callable[[list[Any], Context], Awaitable[Any]]

AWKWARD: list[list[Any]] = [
    [],
    [[], {}, [[]], {"a": []}, None, True],
    [9007199254740993, 12345678901234567890123, -1],
    [1e-7, 1e16, 5e-324, 0.1, 1.0, 1e20, 123456789.125],
    ["emoji 🍣", "line\u2028separator", "nul\x00", "del\x7f", 'slash / quote " back \\', "é"],
]


class Seen:
    """What a handler of ours was given, and its consumer on Ruby's Redis."""

    def __init__(self, url: str, answer: Handler | None = None, **settings: Any) -> None:
        self.calls: list[tuple[list[Any], Context]] = []
        self._answer, self.broker = answer, opened(url)
        self._arrived = asyncio.Event()
        self._consumer = Consumer(
            self.broker,
            settings.pop("queue", "default"),
            list[Any],
            self._handle,
            retry=RetryPolicy(max_attempts=5, backoff=Constant(delay=settings.pop("delay", 3600.0))),
            options=Options(prefetch=Prefetch(wait=0.5)),
            **settings,
        )

    def working(self) -> AbstractAsyncContextManager[Worker]:
        return Worker(self._consumer, drain=5.0)

    async def count(self, number: int) -> None:
        """Wait until so many executions have begun."""
        async with asyncio.timeout(30):
            while len(self.calls) < number:
                self._arrived.clear()
                await self._arrived.wait()

    async def _handle(self, args: list[Any], context: Context) -> Any:
        self.calls.append((args, context))
        self._arrived.set()
        return None if self._answer is None else await self._answer(args, context)


def opened(url: str, **options: Any) -> SidekiqBroker:
    broker = open_broker(f"sidekiq+{url}", **({"timestamps": "float"} | options))
    assert isinstance(broker, SidekiqBroker)
    return broker


def outgoing(type_: str, args: Any, queue: str = "default", delay: float = 0.0, **headers: Any) -> Outgoing:
    body = json.dumps(args, ensure_ascii=False).encode()
    return Outgoing(destination=queue, message=Message(type=type_, body=body, headers=headers), delay=delay)


async def until(condition: Callable[[], Any], within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"waited {within} s in vain"
        await asyncio.sleep(0.02)


def echoed(server: Server) -> list[dict[str, Any]]:
    return [json.loads(text) for text in server.call("LRANGE", "echoed", 0, -1)]


def key_counts(server: Server) -> dict[str, int]:
    """How many jobs there are in each of Sidekiq's structures, and in ours."""
    counts = {name: server.call("ZCARD", name) for name in ("schedule", "retry", "dead")}
    lists = [key.decode() for key in server.call("KEYS", "queue:*") + server.call("KEYS", "pq:inflight:*")]
    return {name: count for name, count in counts.items() if count} | {
        name: server.call("LLEN", name) for name in lists
    }


# ----------------------------------------------------------------------------------------------------- ours → Ruby


async def test_ruby_runs_what_we_push_at_once_later_and_in_bulk(ruby: RubySidekiq, redis_server: Server) -> None:
    broker = opened(redis_server.url)
    later = time.time() + 1.0
    jids = list(
        await broker.publish(
            [
                *(outgoing("Deep::Echo", args) for args in AWKWARD),
                outgoing("Deep::Echo", ["in"], delay=0.5),
                outgoing("Deep::Echo", ["at"], at=later),
                *(outgoing("Deep::Echo", [n]) for n in range(500)),
            ]
        )
    )
    expected = dict(zip(jids, [*AWKWARD, ["in"], ["at"], *([n] for n in range(500))], strict=True))
    assert {"schedule": 2, "queue:default": 505} == key_counts(redis_server)
    ruby.start(poll=0.2)
    await until(lambda: redis_server.call("LLEN", "echoed") == len(jids))
    assert expected == {each["jid"]: each["args"] for each in echoed(redis_server)}
    assert {} == key_counts(redis_server)
    await broker.close()


async def test_one_ruby_thread_runs_what_we_push_in_the_order_of_the_push(
    ruby: RubySidekiq, redis_server: Server
) -> None:
    broker = opened(redis_server.url)
    await broker.publish([outgoing("Deep::Echo", [n]) for n in range(300)])
    ruby.start(concurrency=1)
    await until(lambda: redis_server.call("LLEN", "echoed") == 300)
    assert [[n] for n in range(300)] == [each["args"] for each in echoed(redis_server)]
    await broker.close()


async def test_rubys_api_reads_what_we_have_in_queues_and_in_the_schedule(
    ruby: RubySidekiq, redis_server: Server
) -> None:
    broker = opened(redis_server.url)
    now = time.time()
    (jid, late) = await broker.publish(
        [
            outgoing("HardJob", [1], queue="low", tags=["a", "b"], retry=5),
            outgoing("HardJob", [2], queue="low", at=now + 60.0),
        ]
    )
    facts = ruby.run("""
      job, entry = Sidekiq::Queue.new("low").first, Sidekiq::ScheduledSet.new.first
      {"queues" => Sidekiq::Queue.all.map(&:name), "enqueued" => Sidekiq::Stats.new.enqueued,
       "latency" => Sidekiq::Queue.new("low").latency, "job" => [job.jid, job.klass, job.args, job["tags"], job["retry"]],
       "times" => [job.created_at.to_f, job.enqueued_at.to_f], "entry" => [entry.jid, entry.score, entry.item.key?("at")]}
    """)
    assert (["low"], 1) == (facts["queues"], facts["enqueued"])
    assert [jid, "HardJob", [1], ["a", "b"], 5] == facts["job"]
    assert 0.0 <= facts["latency"] < 60.0
    assert all(now - 1.0 <= at <= now + 60.0 for at in facts["times"])
    assert [late, pytest.approx(now + 60.0, abs=1e-4), False] == facts["entry"]
    await broker.close()


# ----------------------------------------------------------------------------------------------------- Ruby → ours


async def test_we_run_what_ruby_pushes_at_once_later_and_in_bulk(ruby: RubySidekiq, redis_server: Server) -> None:
    pushed = ruby.run(f"""
      awkward = JSON.parse({json.dumps(json.dumps(AWKWARD))})
      now = awkward.map {{ |args| HardJob.perform_async(*args) }}
      later = HardJob.perform_in(1, "in")
      options = HardJob.set(tags: ["x"], retry: 3, backtrace: true, retry_queue: "low").perform_async("options")
      bulk = Sidekiq::Client.push_bulk("class" => "HardJob", "args" => (0...500).map {{ |n| [n] }})
      [*now, later, options, *bulk]
    """)
    expected = dict(zip(pushed, [*AWKWARD, ["in"], ["options"], *([n] for n in range(500))], strict=True))
    seen = Seen(redis_server.url)
    async with seen.working():
        await seen.count(len(pushed))
    assert expected == {context.id: args for args, context in seen.calls}
    assert {0} == {context.attempt for _, context in seen.calls}
    assert {"HardJob"} == {context.type for _, context in seen.calls}
    headers = {context.id: dict(context.headers) for _, context in seen.calls}
    (options,) = (jid for jid, args in expected.items() if args == ["options"])
    assert {"tags": ["x"], "retry": 3, "backtrace": True, "retry_queue": "low"} == headers.pop(options)
    assert [{}] * (len(pushed) - 1) == list(headers.values())
    assert {} == key_counts(redis_server)
    assert [len(pushed), 0] == ruby.run("[Sidekiq::Stats.new.processed, Sidekiq::Stats.new.failed]")


async def test_ruby_retries_reschedules_and_kills_what_failed_here(ruby: RubySidekiq, redis_server: Server) -> None:
    async def fail(args: list[Any], _context: Context) -> None:
        raise ValueError(f"no luck with {args[0]}")

    seen = Seen(redis_server.url, fail)
    await seen.broker.publish([outgoing("HardJob", [n], backtrace=True, jid=f"job{n}") for n in range(4)])
    async with seen.working():
        await until(lambda: redis_server.call("ZCARD", "retry") == 4)
    entries = ruby.run("""
      Sidekiq::RetrySet.new.map { |e| [e.jid, e["error_class"], e["error_message"], e["retry_count"], e.queue,
        e["failed_at"] < Time.now.to_f, e.error_backtrace.first.include?("test_sidekiq_ruby.py")] }.sort
    """)
    assert [[f"job{n}", "ValueError", f"no luck with {n}", 0, "default", True, True] for n in range(4)] == entries

    at = time.time() + 7200.0
    ruby.run(f"Sidekiq::RetrySet.new.find_job('job0').reschedule({at})")
    scores = ruby.run("Sidekiq::RetrySet.new.map { |e| [e.jid, e.score] }.to_h")
    assert 4 == len(scores)
    assert pytest.approx(at, abs=0.01) == scores["job0"]

    ruby.run("Sidekiq::RetrySet.new.find_job('job1').kill")
    ruby.run("Sidekiq::RetrySet.new.find_job('job2').delete")
    assert {"retry": 2, "dead": 1} == key_counts(redis_server)
    ruby.run("Sidekiq::RetrySet.new.retry_all")
    assert {"queue:default": 2, "dead": 1} == key_counts(redis_server)
    ruby.start()
    await until(lambda: len(ruby.ended) == 2)
    assert {0: "job0", 3: "job3"} == ruby.ended

    assert [["job1", 0]] == ruby.run("Sidekiq::DeadSet.new.map { |e| [e.jid, e['retry_count']] }")
    ruby.run("Sidekiq::DeadSet.new.each(&:retry)")
    await until(lambda: len(ruby.ended) == 3)
    assert {} == key_counts(redis_server)


async def test_what_we_declared_dead_is_a_dead_job_to_ruby(ruby: RubySidekiq, redis_server: Server) -> None:
    async def bury(_args: list[Any], context: Context) -> DeadLetter:
        return context.dead_letter("", error=RuntimeError("enough"))

    seen = Seen(redis_server.url, bury)
    await seen.broker.publish([outgoing("HardJob", [7], jid="job7")])
    async with seen.working():
        await until(lambda: redis_server.call("ZCARD", "dead") == 1)
    facts = ruby.run("Sidekiq::DeadSet.new.map { |e| [e.jid, e['error_class'], e['error_message'], e.item.keys] }")
    assert ["job7", "RuntimeError", "enough"] == facts[0][:3]
    assert "penstock" not in facts[0][3]
    assert [1, 1] == ruby.run("[Sidekiq::Stats.new.processed, Sidekiq::Stats.new.failed]")


async def test_we_promote_and_run_what_failed_in_ruby(ruby: RubySidekiq, redis_server: Server) -> None:
    worker = ruby.start(poll=60.0)
    jid = ruby.run("HardJob.set(retry: 5, tags: ['t']).perform_async(3, 'fail')")
    await until(lambda: redis_server.call("ZCARD", "retry") == 1)
    worker.stop()
    (entry,) = redis_server.call("ZRANGE", "retry", 0, -1)
    redis_server.call("ZADD", "retry", "XX", 1, entry)  # due now
    seen = Seen(redis_server.url)
    async with seen.working():
        await seen.count(1)
    ((args, context),) = seen.calls
    assert ([3, "fail"], jid, 1, {"retry": 5, "tags": ["t"]}) == (
        args,
        context.id,
        context.attempt,
        dict(context.headers),
    )
    assert {} == key_counts(redis_server)


async def test_what_fails_in_turn_here_and_there_keeps_one_count(ruby: RubySidekiq, redis_server: Server) -> None:
    async def fail(_args: list[Any], _context: Context) -> None:
        raise ValueError("here")

    jid = ruby.run("HardJob.set(retry: 9).perform_async(3, 'fail')")
    for attempt in range(3):
        if attempt % 2:
            worker = ruby.start(poll=0.1)
            await until(lambda: redis_server.call("ZCARD", "retry") == 1 and _failures(redis_server) == 1)
            worker.stop()
        else:
            seen = Seen(redis_server.url, fail)
            async with seen.working():
                await until(lambda n=attempt: _failures(redis_server) == n)
        ((entry, count),) = ruby.run("Sidekiq::RetrySet.new.map { |e| [e.value, e['retry_count']] }")
        assert (jid, attempt) == (json.loads(entry)["jid"], count)
        redis_server.call("ZADD", "retry", "XX", 1, entry)
    fields = json.loads(entry)
    assert fields["failed_at"] < fields["retried_at"]
    assert ("ValueError", "here") == (fields["error_class"], fields["error_message"])
    assert 3 == ruby.run("Sidekiq::Stats.new.failed")


def _failures(server: Server) -> int:
    """The count of the one job that is to be retried, or less than any."""
    entries = server.call("ZRANGE", "retry", 0, -1)
    return json.loads(entries[0])["retry_count"] if entries else -1


async def test_we_requeue_what_ruby_has_killed(ruby: RubySidekiq, redis_server: Server) -> None:
    jid = ruby.run("""
      jid = HardJob.perform_in(3600, 11)
      Sidekiq::ScheduledSet.new.find_job(jid).kill
      jid
    """)
    seen = Seen(redis_server.url)
    (letter,) = await seen.broker.dead("default", 10)
    assert (jid, b"[11]") == (letter.message.id, letter.message.body)
    assert 1 == await seen.broker.requeue_dead("default", [letter.id])
    async with seen.working():
        await seen.count(1)
    assert ([11], jid) == (seen.calls[0][0], seen.calls[0][1].id)
    assert {} == key_counts(redis_server)


# -------------------------------------------------------------------------------------------------- side by side


async def test_ruby_sees_our_processes_and_their_work(ruby: RubySidekiq, redis_server: Server) -> None:
    done = asyncio.Event()

    async def work(_args: list[Any], _context: Context) -> None:
        await done.wait()

    seen, began = Seen(redis_server.url, work, concurrency=7), time.time()
    broker, signals = seen.broker, list[str]()
    broker.about = ProcessInfo(
        tag="shop",
        labels=("eu",),
        capsules={"default": {"concurrency": 7, "mode": "strict", "weights": {"default": 0}}},
    )
    broker.work = lambda: [
        WorkEntry(tid=f"t{n}", queue=context.stream, payload=context.headers.raw, run_at=began)  # type: ignore[attr-defined]
        for n, (_, context) in enumerate(seen.calls)
    ]
    broker.on_signal = signals.append
    async with seen.working() as worker:
        while not redis_server.call("SISMEMBER", "processes", broker.identity):
            await asyncio.sleep(0.01)
        (jid,) = await broker.publish([outgoing("HardJob", [1])])
        await seen.count(1)
        await broker.beat(worker.presence(broker), 60.0)  # no earlier one is under way that would say less
        facts = ruby.run("""
          process = Sidekiq::ProcessSet.new.first
          work = Sidekiq::Workers.new.map { |id, tid, w| [id, tid, w["queue"], w["run_at"], w["payload"]["jid"]] }
          process.stop!
          {"id" => process.identity, "fields" => %w[tag labels queues concurrency busy pid].map { |f| process[f] },
           "stopping" => process.stopping?, "sizes" => [Sidekiq::ProcessSet.new.size, Sidekiq::Workers.new.size], "work" => work}
        """)
        assert broker.identity == facts["id"]
        assert ["shop", ["eu"], ["default"], 7, 1, os.getpid()] == facts["fields"]
        assert (False, [1, 1]) == (facts["stopping"], facts["sizes"])
        assert [[broker.identity, "t0", "default", int(began), jid]] == facts["work"]
        await broker.beat(worker.presence(broker), 60.0)
        assert ["TERM"] == signals
        done.set()
    assert 0 == ruby.run("Sidekiq::ProcessSet.new.size")


@pytest.mark.slow
async def test_two_of_our_pollers_and_rubys_move_ten_thousand_due_jobs_each_once(
    ruby: RubySidekiq, redis_server: Server, make_fleet: MakeFleet
) -> None:
    count = JOBS // 2
    ruby.run(f"""
      (0...{count}).each_slice(1000) do |slice|
        Sidekiq::Client.push_bulk("class" => "HardJob", "args" => slice.map {{ |n| [n] }}, "at" => Time.now.to_f + 3600)
      end
      nil
    """)
    assert {"schedule": count} == key_counts(redis_server)
    worker = ruby.start("elsewhere", poll=0.1)  # moves what is due, runs none of it
    brokers = [opened(redis_server.url, timestamps="ms") for _ in range(2)]  # by which we know what we have moved
    due = "local all = redis.call('ZRANGE', 'schedule', 0, -1) for i = 1, #all do redis.call('ZADD', 'schedule', 1, all[i]) end"
    redis_server.call("EVAL", due, 0)
    await until(lambda: redis_server.call("EXISTS", "queue:default"))  # Ruby has begun: we are faster
    await asyncio.gather(*(_promote_all(broker) for broker in brokers))
    await until(lambda: key_counts(redis_server) == {"queue:default": count})
    worker.stop()
    queued = [json.loads(raw) for raw in redis_server.call("LRANGE", "queue:default", 0, -1)]
    movers = Counter("us" if isinstance(job["enqueued_at"], int) else "Ruby" for job in queued)
    print(f"moved: {dict(movers)}")
    assert {"us", "Ruby"} == set(movers)
    assert Counter(range(count)) == Counter(job["args"][0] for job in queued)

    fleet = make_fleet(f"sidekiq+{redis_server.url}", stream="default")
    await fleet.start_ready()
    ruby.start(concurrency=5)
    await fleet.until(lambda: len(fleet.seen("end")) >= count)
    await fleet.until_empty()
    assert dict.fromkeys(range(count), 1) == {n: len(starts) for n, starts in fleet.executions().items()}
    for broker in brokers:
        await broker.close()


async def _promote_all(broker: SidekiqBroker) -> None:
    assert isinstance(broker, SupportsSchedule)
    while (await broker.promote_due("default", 20)).count:
        await asyncio.sleep(0.002)


@pytest.mark.slow
@pytest.mark.timeout(WITHIN + 60)
async def test_of_one_queue_ruby_and_two_of_ours_run_each_job_and_only_those_of_the_killed_twice(
    ruby: RubySidekiq, redis_server: Server, make_fleet: MakeFleet
) -> None:
    fleet = make_fleet(f"sidekiq+{redis_server.url}", stream="default", options={"timestamps": "float"})
    victim, other = await fleet.start_ready(2)
    rubies = ruby.start(concurrency=10)
    ruby.run(f"""
      (0...{JOBS}).each_slice(1000) do |slice|
        Sidekiq::Client.push_bulk("class" => "HardJob", "args" => slice.map {{ |n| [n, "sleep", 0.004] }})
      end
      nil
    """)
    await fleet.until(lambda: len(fleet.seen("end")) >= JOBS // 4, WITHIN)
    fleet.kill(victim)
    began = {line.number for line in fleet.seen("start", pid=victim.pid)}
    await fleet.until(lambda: len({line.number for line in fleet.seen("end")}) == JOBS, WITHIN)
    await fleet.until_empty()
    runs = Counter(line.pid for line in fleet.seen("start"))
    twice = {number for number, starts in fleet.executions().items() if len(starts) > 1}
    print(f"runs: Ruby {runs[rubies.pid]}, ours {runs[other.pid]}, killed {runs[victim.pid]}; twice: {len(twice)}")
    assert set(range(JOBS)) == set(fleet.executions())
    assert {} == fleet.unexplained()
    assert twice <= began
    assert min(runs[pid] for pid in (rubies.pid, other.pid, victim.pid)) > 0
    assert {} == key_counts(redis_server)


async def test_l1_a_job_whose_worker_of_ours_was_killed_comes_to_ruby(
    ruby: RubySidekiq, redis_server: Server, make_fleet: MakeFleet
) -> None:
    """Whoever of ours is left gives it back to its queue, although he reads another one."""
    fleet = make_fleet(f"sidekiq+{redis_server.url}", stream="default", lease=1.0)
    (victim,) = await fleet.start_ready()
    jid = ruby.run("HardJob.perform_async(1, 'notice', 30.0)")
    await fleet.until(lambda: bool(fleet.seen("start", pid=victim.pid)))
    fleet.kill(victim)
    worker = ruby.start()
    elsewhere = open_broker(f"sidekiq+{redis_server.url}", foreign_grace=0.5)
    assert isinstance(elsewhere, SidekiqBroker)
    subscription = Subscription(source="elsewhere", lease=1.0)
    async with asyncio.timeout(30):
        while not fleet.seen("start", pid=worker.pid):
            assert [] == await elsewhere.reclaim(subscription, 10)
            await asyncio.sleep(0.05)
    assert [jid, jid] == [line.ident for line in fleet.seen("start")]
    await elsewhere.close()
