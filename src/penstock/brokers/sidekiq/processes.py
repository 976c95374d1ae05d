"""A process as Ruby's API and Web UI see it: who it is, how it does, what it works on, what it is asked to do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ...broker import Presence
from ...clients.redis import Arg, Command, RedisClient
from ...clock import Clock
from . import keys, ruby_json

logger = logging.getLogger("penstock")

WORK_TTL = 60  # seconds, as Ruby's


class WorkEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One job at work. ``tid``: the thread or slot; ``payload``: the job's own text; ``run_at``: seconds since then."""

    tid: str
    queue: str
    payload: bytes
    run_at: float


class ProcessInfo(msgspec.Struct, kw_only=True):
    """What a process says of itself beyond what every worker does.

    ``capsules``: by name, ``{"concurrency": 5, "mode": "weighted", "weights": {"critical": 3}}``.
    """

    tag: str = ""
    labels: Sequence[str] = ()
    capsules: Mapping[str, Mapping[str, Any]] = {}
    embedded: bool = False
    version: str = ""


class Beaten(msgspec.Struct, frozen=True):
    """What a beat brings: the round trip in microseconds, whether the process was unknown, what somebody asks for."""

    rtt_us: int
    first: bool
    signal: str | None


class OnBeat(Protocol):
    """Called after each beat."""

    async def __call__(self, rtt_us: int, *, first: bool) -> None: ...


async def beat(
    client: RedisClient,
    presence: Presence,
    ttl: float,
    about: ProcessInfo,
    work: Sequence[WorkEntry],
    clock: Clock,
    *,
    old: bool = False,
) -> Beaten:
    """One heartbeat. ``old``: Ruby before 6.4.2 looks as well."""
    identity, life = presence.identity, max(int(ttl * 1000), 1)
    began = clock.monotonic()
    await client.call("PING")
    rtt = int((clock.monotonic() - began) * 1_000_000)
    commands: list[Command] = [("EXISTS", identity), ("MULTI",)]
    entries = [part for each in work for part in (each.tid, _work(each))]
    for name in (keys.work(identity), keys.old_work(identity))[: 1 + old]:
        commands.append(("UNLINK", name))
        if entries:
            commands += [("HSET", name, *entries), ("EXPIRE", name, WORK_TTL)]
    facts: list[Arg] = ["info", _info(presence, about), "concurrency", presence.concurrency, "busy", presence.busy]
    facts += ["beat", f"{presence.beat_at:.7f}", "rtt_us", rtt, "quiet", "true" if presence.quiet else "false"]
    facts += ["rss", presence.rss // 1024]
    commands += [
        ("SADD", keys.PROCESSES, identity),
        ("HSET", identity, *facts),
        ("PEXPIRE", identity, life),
        ("EXEC",),
        ("RPOP", keys.signals(identity)),
    ]
    replies = await client.many(commands)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    signal = replies[-1]
    return Beaten(rtt, not replies[0], None if signal is None else signal.decode())


async def leave(client: RedisClient, identity: str) -> None:
    """A clean exit. Unlike Ruby, the process does not linger for a minute."""
    await client.many(
        [
            ("MULTI",),
            ("SREM", keys.PROCESSES, identity),
            ("UNLINK", identity, keys.work(identity), keys.old_work(identity), keys.signals(identity)),
            ("EXEC",),
        ]
    )


async def processes(client: RedisClient) -> list[Presence]:
    """Those alive, Ruby's among them."""
    names = [name.decode() for name in await client.call("SMEMBERS", keys.PROCESSES)]
    replies = await client.many([("HGETALL", name) for name in names])
    found: list[Presence] = []
    for name, reply in zip(names, replies, strict=True):
        if isinstance(reply, Exception):
            raise reply
        facts: dict[bytes, bytes] = dict(zip(reply[::2], reply[1::2], strict=True))
        if facts and b"info" in facts:
            found.append(_presence(name, facts))
    return sorted(found, key=lambda each: each.identity)


def _work(entry: WorkEntry) -> bytes:
    payload = entry.payload.decode("utf-8", "replace")
    return ruby_json.dumps({"queue": entry.queue, "payload": payload, "run_at": int(entry.run_at)})


def _info(presence: Presence, about: ProcessInfo) -> bytes:
    weights = [dict(each["weights"]) for each in about.capsules.values()]
    return ruby_json.dumps(
        {
            "hostname": presence.host,
            "started_at": presence.started_at,
            "pid": presence.pid,
            "tag": about.tag,
            "concurrency": presence.concurrency,
            "capsules": about.capsules,
            "queues": list(dict.fromkeys(queue for each in weights for queue in each)),
            "weights": weights,
            "labels": list(about.labels),
            "identity": presence.identity,
            "version": about.version or presence.version,
            "embedded": about.embedded,
            "penstock": {
                "consumers": presence.consumers,
                "paused": presence.paused,
                "version": presence.version,
            },
        }
    )


def _presence(identity: str, facts: Mapping[bytes, bytes]) -> Presence:
    info: dict[str, Any] = msgspec.json.decode(facts[b"info"])
    ours: dict[str, Any] = info.get("penstock") or {}
    return Presence(
        identity=identity,
        host=str(info.get("hostname", "")),
        pid=int(info.get("pid", 0)),
        started_at=float(info.get("started_at", 0.0)),
        beat_at=float(facts.get(b"beat", b"0")),
        consumers=tuple(ours.get("consumers") or info.get("queues") or ()),
        concurrency=int(facts.get(b"concurrency", info.get("concurrency") or 0)),
        busy=int(facts.get(b"busy", b"0")),
        quiet=facts.get(b"quiet") == b"true",
        rss=int(facts.get(b"rss", b"0")) * 1024,
        version=str(ours.get("version") or info.get("version", "")),
        paused=tuple(ours.get("paused") or ()),
    )


OnSignal = Callable[[str], None]
