"""Settings of a server under which the guarantees do not hold, or not for long."""

from __future__ import annotations

from ...broker import Finding
from .core import Core
from .options import RabbitmqAddress

OLDEST = (3, 10)  # queues with a time to live and confirmed dead-lettering
CONSUMER_TIMEOUT = 1800.0


async def diagnose(core: Core, address: RabbitmqAddress) -> list[Finding]:
    """What the connection tells; changes nothing but the exchange, which is declared."""
    await core.topology.exchange()
    return [_version(core.taking.version), _hold(core.options.hold), _management(core), _tls(address)]


def _version(version: tuple[int, ...]) -> Finding:
    text = ".".join(map(str, version))
    if version < OLDEST:
        detail = f"{text}: delays and dead letters need 3.10, whose quorum queues have a time to live"
        return Finding(level="danger", subject="rabbitmq version", detail=detail)
    return Finding(level="ok", subject="rabbitmq version", detail=text)


def _hold(hold: float) -> Finding:
    if hold > CONSUMER_TIMEOUT * 0.8:
        detail = f"hold is {hold:.0f} s: consumer_timeout of the server, 1800 s by default, must be well above it"
        return Finding(level="warning", subject="consumer_timeout", detail=detail)
    detail = f"nothing stays unacknowledged for longer than {hold:.0f} s; the server's default limit is 1800 s"
    return Finding(level="ok", subject="consumer_timeout", detail=detail)


def _management(core: Core) -> Finding:
    if core.options.management is None:
        detail = "no URL given (management=...): queues cannot be listed, and leases of other workers are not seen"
        return Finding(level="unknown", subject="management API", detail=detail)
    return Finding(level="ok", subject="management API", detail="given")


def _tls(address: RabbitmqAddress) -> Finding:
    near = address.host in {"localhost", "127.0.0.1", "::1"}
    if address.scheme == "amqp" and not near:
        detail = f"the password travels to {address.host} in the clear; amqps:// encrypts it"
        return Finding(level="warning", subject="encryption", detail=detail)
    return Finding(level="ok", subject="encryption", detail="local" if near else "TLS")
