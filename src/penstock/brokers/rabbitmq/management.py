"""The management API, for what AMQP cannot tell: which queues there are and how much consumers hold."""

from __future__ import annotations

import asyncio
import base64
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import msgspec

from ...errors import AccessDenied, ConnectionFailed, UnsupportedFeature
from .options import RabbitmqAddress, RabbitmqOptions


async def queues(address: RabbitmqAddress, options: RabbitmqOptions, what: str) -> dict[str, dict[str, Any]]:
    """The vhost's queues by name; the numbers are up to five seconds old. Raises ``UnsupportedFeature`` without a URL."""
    if options.management is None:
        raise UnsupportedFeature(
            f"AMQP cannot {what}: name the management API too, open_broker(url,"
            " management='http://user:password@host:15672')"
        )
    # Without the history of each queue: cheaper, and fresher
    path = f"/api/queues/{quote(address.vhost, safe='')}?disable_stats=true&enable_queue_totals=true"
    found: list[dict[str, Any]] = await asyncio.to_thread(_get, address, options.management, path, options.timeout)
    return {str(queue["name"]): queue for queue in found}


def _get(address: RabbitmqAddress, url: str, path: str, timeout: float) -> Any:
    parts = urlsplit(url)
    user = unquote(parts.username) if parts.username else address.user
    password = unquote(parts.password) if parts.password else address.password
    host = parts.netloc.rpartition("@")[2]
    target = urlunsplit(
        (parts.scheme, host, parts.path.rstrip("/") + path.partition("?")[0], path.partition("?")[2], "")
    )
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    request = urllib.request.Request(target, headers={"Authorization": f"Basic {token}"})  # noqa: S310 - http or https, checked
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - as above
            return msgspec.json.decode(answer.read())
    except urllib.error.HTTPError as error:
        kind = AccessDenied if error.code in {401, 403} else ConnectionFailed
        raise kind(f"the management API at {host} answered {error.code} {error.reason}") from error
    except (OSError, msgspec.DecodeError) as error:
        raise ConnectionFailed(f"the management API at {host} cannot be reached: {error}") from error
