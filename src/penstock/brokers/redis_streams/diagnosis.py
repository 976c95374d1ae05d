"""What the doctor says about a Redis or Valkey: settings, rights and circumstances that weaken the guarantees.

``examine`` asks the server and changes nothing. The rest are pure functions, one for each finding: facts in, a
``Finding`` out, so that a healthy server gets its ``ok`` lines too. What the server does not tell is ``unknown``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias, cast

from msgspec.structs import replace

from ...broker import Finding, Level, Presence, StreamStats
from ...clients.redis import Command, RedisClient
from ...clock import Clock
from ...errors import AccessDenied

Facts: TypeAlias = dict[str, str]  #: what INFO says, and CONFIG GET as far as it is allowed

CONFIGS = ("appendfsync", "save", "timeout", "min-replicas-to-write", "client-output-buffer-limit")
NOWHERE = (
    "penstock:{doctor}"  # no such key: whatever the commands below are asked to change, there is nothing to change
)
TRIES: tuple[Command, ...] = (
    ("XADD", NOWHERE, "NOMKSTREAM", "*", "a", "b"),
    ("XACK", NOWHERE, "g", "0-1"),
    ("XDEL", NOWHERE, "0-1"),
    ("XLEN", NOWHERE),
    ("XRANGE", NOWHERE, "-", "+", "COUNT", 1),
    ("XREVRANGE", NOWHERE, "+", "-", "COUNT", 1),
    ("XTRIM", NOWHERE, "MAXLEN", 0),
    ("XPENDING", NOWHERE, "g"),
    ("XCLAIM", NOWHERE, "g", "c", 1000, "0-1"),
    ("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", NOWHERE, ">"),
    ("XGROUP", "CREATE", NOWHERE, "g", "0"),
    ("XGROUP", "DELCONSUMER", NOWHERE, "g", "c"),
    ("XINFO", "GROUPS", NOWHERE),
    ("XINFO", "CONSUMERS", NOWHERE, "g"),
    ("ZADD", NOWHERE, "XX", 0, "m"),
    ("ZRANGE", NOWHERE, 0, 0),
    ("ZREM", NOWHERE, "m"),
    ("ZSCORE", NOWHERE, "m"),
    ("ZCARD", NOWHERE),
    ("SET", NOWHERE, "v", "XX"),
    ("GET", NOWHERE),
    ("DEL", NOWHERE),
    ("HDEL", NOWHERE, "f"),
    ("HVALS", NOWHERE),
    ("PEXPIRE", NOWHERE, 1),
    ("TIME",),
    ("EVALSHA", "0" * 40, 0),
    ("CLIENT", "ID"),
)
ADDRESSED = "addressed"  # a fact of ours: how the server was reached
SMALL_BUFFER = 32 * 1024**2
SLOW = 0.05
SKEW = 1.0
SILENT = 300.0  # seconds; no lease of a sensible length is longer
RECENT = 3600.0


def _finding(level: Level, subject: str, detail: str) -> Finding:
    return Finding(level=level, subject=subject, detail=detail)


async def examine(client: RedisClient, clock: Clock) -> list[Finding]:
    """Everything about the server itself; about each, if it is a cluster: what is well with all of them is said once."""
    if not client.clustered:
        return await _examine(client, clock)
    servers = await client.primaries()
    found = [_finding("ok", "cluster", f"{len(servers)} primaries")]
    each = [(server.url, await _examine(server, clock, addressed="cluster")) for server in servers]
    bad = {finding.subject for _, findings in each for finding in findings if finding.level != "ok"}
    found += [finding for finding in each[0][1] if finding.subject not in bad]
    for url, findings in each:
        node = url.rpartition("(")[2].rstrip(")")  # its host and port; before it stands the address of the cluster
        found += [replace(one, subject=f"{one.subject} of {node}") for one in findings if one.level != "ok"]
    return found


async def _examine(client: RedisClient, clock: Clock, *, addressed: str = "") -> list[Finding]:
    replies = await client.many([("INFO",), *(("CONFIG", "GET", name) for name in CONFIGS)])
    info: Any = replies.pop(0)
    found: list[Finding] = []
    if isinstance(info, Exception):
        found.append(_finding("unknown", "server", f"INFO is not allowed, so its settings are not known: {info}"))
    else:
        raw: bytes = info
        facts = dict(line.split(":", 1) for line in raw.decode(errors="replace").splitlines() if ":" in line)
        facts[ADDRESSED] = addressed
        for name, reply in zip(CONFIGS, replies, strict=True):
            if isinstance(reply, list) and reply:
                facts[name] = cast("list[bytes]", reply)[1].decode(errors="replace")
        found += [check(facts) for check in CHECKS]
    return [*found, *await _tried(client), *await _timed(client, clock)]


async def _tried(client: RedisClient) -> list[Finding]:
    lua, *replies = await client.many([("EVAL", "return 1", 0), *TRIES])
    refused = [
        " ".join(str(word) for word in command[: 2 if command[0] in {"XGROUP", "XINFO", "CLIENT"} else 1])
        for command, reply in zip(TRIES, replies, strict=True)
        if isinstance(reply, AccessDenied) and "to run the" in str(reply)  # and not: that key, which workers never use
    ]
    return [scripts(lua), rights(refused)]


async def _timed(client: RedisClient, clock: Clock) -> list[Finding]:
    trips: list[float] = []
    skew: float | None = None
    for _ in range(3):
        sent, started = clock.time(), clock.monotonic()
        (reply,) = await client.many([("TIME",)])
        trip = clock.monotonic() - started
        if not isinstance(reply, Exception) and (not trips or trip < min(trips)):
            skew = int(reply[0]) + int(reply[1]) / 1e6 - (sent + trip / 2)
        trips.append(trip)
    return [round_trip(min(trips)), clocks(skew)]


# ------------------------------------------------------------------------------------------------------- the server


def version(facts: Facts) -> Finding:
    name = "Valkey" if "valkey_version" in facts else "Redis"
    number = facts.get("valkey_version") or facts.get("redis_version", "unknown")
    if number[:1].isdigit() and int(number.split(".")[0]) < 7:
        return _finding(
            "danger", "version", f"{name} {number}: the scripts need Redis 7 or newer, or Valkey; upgrade it"
        )
    return _finding("ok", "version", f"{name} {number}")


def eviction(facts: Facts) -> Finding:
    policy, subject = facts.get("maxmemory_policy", "unknown"), "maxmemory-policy"
    if policy == "noeviction":
        return _finding("ok", subject, f"{policy}: nothing is evicted")
    if facts.get("maxmemory", "0") == "0":
        return _finding("ok", subject, f"{policy}, but maxmemory is not set: nothing is evicted")
    detail = f"{policy}: the server may throw jobs away when its memory is full; set noeviction"
    return _finding("warning" if policy.startswith("volatile") else "danger", subject, detail)


def evicted(facts: Facts) -> Finding:
    count = int(facts.get("evicted_keys", 0))
    if not count:
        return _finding("ok", "evicted keys", "none since the server started")
    detail = f"{count} since the server started: jobs may have been among them; set maxmemory-policy noeviction"
    return _finding("warning", "evicted keys", detail)


def memory(facts: Facts) -> Finding:
    used, most = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
    if not most:
        return _finding("ok", "memory", f"{used // 1024**2} MiB used, without a limit of the server's own")
    share = used / most
    detail = f"{share:.0%} of maxmemory used"
    if share < 0.8:
        return _finding("ok", "memory", detail)
    detail += "; when it is full every send is refused: raise maxmemory, or find what grows with penstock stats"
    return _finding("danger" if share >= 0.95 else "warning", "memory", detail)


def durability(facts: Facts) -> Finding:
    subject = "appendonly"
    if facts.get("aof_enabled") == "1":
        if facts.get("aof_last_write_status", "ok") != "ok":
            return _finding("danger", subject, "on, but the last write to the file failed; look at the server's disk")
        return _finding("ok", subject, "on: messages survive a restart")
    if facts.get("save") == "":
        detail = "off, and no snapshots either: every message is lost when the server stops; set appendonly yes"
        return _finding("danger", subject, detail)
    detail = "off: messages since the last snapshot are lost when the server stops; set appendonly yes"
    return _finding("warning", subject, detail)


def syncing(facts: Facts) -> Finding:
    subject, value = "appendfsync", facts.get("appendfsync")
    if value is None:
        return _unseen(subject, "whether each write is synced to disk")
    if facts.get("aof_enabled") != "1":
        return _finding("ok", subject, f"{value}, without effect while appendonly is off")
    meaning = {
        "always": "each write is on the disk before it is answered",
        "everysec": "a power cut may lose about a second, of messages that were sent and of acks; always loses none",
    }
    if value in meaning:
        return _finding("ok", subject, f"{value}: {meaning[value]}")
    detail = f"{value}: the system decides when to write, a power cut may lose half a minute; set everysec or always"
    return _finding("warning", subject, detail)


def snapshots(facts: Facts) -> Finding:
    if facts.get("rdb_last_bgsave_status", "ok") == "ok":
        return _finding("ok", "snapshots", "the last one did not fail")
    detail = (
        "the last one failed: with stop-writes-on-bgsave-error, the default, the server refuses every write; look at"
        " its disk and its memory (vm.overcommit_memory)"
    )
    return _finding("danger", "snapshots", detail)


def role(facts: Facts) -> Finding:
    if facts.get("role", "master") != "master":
        return _finding("danger", "role", "this is a replica: it takes no writes; give the primary's address")
    if facts.get("cluster_enabled") == "1":
        if facts.get(ADDRESSED) == "cluster":
            return _finding("ok", "role", "primary of a cluster")
        detail = (
            "a node of a cluster, addressed as if it were alone: it has some of the streams; write redis+cluster://"
        )
        return _finding("danger", "role", detail)
    return _finding("ok", "role", "primary")


def replicas(facts: Facts) -> Finding:
    count, least = int(facts.get("connected_slaves", 0)), facts.get("min-replicas-to-write")
    if not count:
        return _finding("ok", "replicas", "none: nothing is lost by a failover, and there is none to go on")
    if least is None:
        return _unseen("replicas", f"whether writes need one of the {count} replicas (min-replicas-to-write)")
    if least != "0":
        return _finding("ok", "replicas", f"{count}; without {least} of them the server refuses writes")
    detail = (
        f"{count}, and min-replicas-to-write is 0: a primary that is cut off goes on taking messages, which are lost"
        " when it comes back as a replica; set it to 1"
    )
    return _finding("warning", "replicas", detail)


def idle_timeout(facts: Facts) -> Finding:
    value = facts.get("timeout")
    if value is None:
        return _unseen("timeout", "whether the server closes idle connections")
    if value == "0" or int(value) >= 60:
        return _finding("ok", "timeout", "idle connections stay" if value == "0" else f"idle for {value} seconds")
    detail = f"connections are closed after {value} idle seconds: calls connect anew again and again; set 0, or 60"
    return _finding("warning", "timeout", detail)


def clients(facts: Facts) -> Finding:
    now, most = int(facts.get("connected_clients", 0)), int(facts.get("maxclients", 0))
    if not most:
        return _finding("unknown", "clients", f"{now}; the server does not tell its maxclients")
    if now < 0.8 * most:
        return _finding("ok", "clients", f"{now} of {most}")
    detail = f"{now} of {most}: beyond that workers cannot connect, and lose their leases; raise maxclients"
    return _finding("warning", "clients", detail)


def output_buffer(facts: Facts) -> Finding:
    subject, words = "client-output-buffer-limit", facts.get("client-output-buffer-limit", "").split()
    if "normal" not in words:
        return _unseen(subject, "whether large replies are cut off")
    limit = int(words[words.index("normal") + 1])
    if not limit or limit >= SMALL_BUFFER:
        return _finding("ok", subject, f"{limit or 'no limit'} for workers")
    detail = f"normal {limit} bytes: a fetch of large messages costs its connection each time; set normal 0 0 0"
    return _finding("warning", subject, detail)


CHECKS: tuple[Callable[[Facts], Finding], ...] = (
    version,
    eviction,
    evicted,
    memory,
    durability,
    syncing,
    snapshots,
    role,
    replicas,
    idle_timeout,
    clients,
    output_buffer,
)


def _unseen(subject: str, what: str) -> Finding:
    return _finding("unknown", subject, f"{what} cannot be told: CONFIG GET is not allowed; grant +config|get")


def scripts(reply: Any) -> Finding:
    if isinstance(reply, Exception):
        detail = f"Lua is refused, and nothing can be settled without it: {reply}; allow EVAL and EVALSHA"
        return _finding("danger", "scripts", detail)
    return _finding("ok", "scripts", "Lua is allowed")


def rights(refused: Sequence[str]) -> Finding:
    if not refused:
        return _finding("ok", "rights", "this user may run every command that workers need")
    detail = f"this user may not run {', '.join(refused)}, which workers need; grant them with ACL SETUSER"
    return _finding("danger", "rights", detail)


def round_trip(seconds: float) -> Finding:
    detail = f"{seconds * 1000:.1f} ms"
    if seconds < SLOW:
        return _finding("ok", "round trip", detail)
    return _finding("warning", "round trip", f"{detail}: each lone send takes that long; work nearer to the server")


def clocks(skew: float | None) -> Finding:
    if skew is None:
        return _finding("unknown", "clock", "TIME is not allowed: whether the clocks agree cannot be told; grant +time")
    if abs(skew) < SKEW:
        return _finding("ok", "clock", "the server's and this machine's agree within a second")
    which = "ahead of" if skew > 0 else "behind"
    detail = f"the server's is {abs(skew):.1f} s {which} this machine's: delays are off by as much; run NTP on both"
    return _finding("warning", "clock", detail)


# ------------------------------------------------------------------------------------------------- streams and workers


def workers(alive: Sequence[Presence]) -> Finding:
    versions = sorted({each.version for each in alive})
    if len(versions) > 1:
        detail = f"they run different versions of penstock, {' and '.join(versions)}; end the rollout"
        return _finding("warning", "workers", detail)
    return _finding("ok", "workers", ", penstock ".join([f"{len(alive)} alive", *versions]))


def unserved(stats: StreamStats, alive: Iterable[Presence]) -> list[Finding]:
    """Groups with work and nobody to do it. What they have not read stays in the memory of the server."""
    served = {name for each in alive for name in each.consumers}
    whole, _, shard = stats.source.rpartition(":")
    names = {stats.source, whole} if shard.isdecimal() else {stats.source}  # workers name streams without their shards
    return [
        _finding(
            "warning",
            f"group {stats.source}/{group.name}",
            f"{(group.lag or 0) + group.leased} messages wait and no live worker serves it, so they stay in memory;"
            f" start one, or if it is gone for good: XGROUP DESTROY {stats.source} {group.name}",
        )
        for group in stats.groups
        if (group.lag or group.leased) and served.isdisjoint(f"{name}/{group.name}" for name in names)
    ]


def silent(source: str, group: str, consumers: Iterable[tuple[str, int, float]]) -> list[Finding]:
    """Of (name, pending, idle seconds): those that hold messages and have not been heard of for long."""
    held = [pending for _, pending, idle in consumers if pending and idle > SILENT]
    if not held:
        return []
    detail = (
        f"{sum(held)} messages are leased to {len(held)} consumers silent for over {SILENT:.0f} seconds; a worker takes"
        " them over when their leases have lapsed: see that one with recovery runs"
    )
    return [_finding("warning", f"leases {source}/{group}", detail)]


def dying(source: str, dead: int, newest: float | None, now: float) -> list[Finding]:
    """Dead letters that have come lately."""
    if newest is None or now - newest > RECENT:
        return []
    detail = f"{dead}, the last one {max(now - newest, 0):.0f} seconds ago; see why with penstock dlq peek {source}"
    return [_finding("warning", f"dead letters {source}", detail)]
