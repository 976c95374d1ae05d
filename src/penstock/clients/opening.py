"""Which adapter talks to a Redis or Valkey address."""

from __future__ import annotations

from ..checks import positive
from .redis import RedisClient
from .redis_address import RedisAddress


def redis_client(url: str, *, timeout: float = 10.0) -> RedisClient:
    """A client for ``url``, not connected yet. ``timeout``: seconds for one call. ``InvalidURL``, ``MissingExtra``."""
    positive("timeout, the seconds of one call,", timeout)
    address = RedisAddress.parse(url)
    if address.client == "glide":
        from .glide import GlideClient, GlideClusterClient

        kind = GlideClusterClient if address.layout == "cluster" else GlideClient
        return kind(address, timeout=timeout)
    if address.layout == "cluster":
        from .redis_cluster import RedisClusterClient

        return RedisClusterClient(address, timeout=timeout)
    if address.layout == "sentinel":
        from .redis_sentinel import RedisSentinelClient

        return RedisSentinelClient(address, timeout=timeout)
    from .redis_py import RedisPyClient

    return RedisPyClient(address, timeout=timeout)
