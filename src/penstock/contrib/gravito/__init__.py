"""Moving off @gravito/stream: what it has left queued in Redis or a ``jobs`` table goes on as jobs of an ``App``.

``penstock import-gravito`` does it from the shell; ``await Mover(gravito_source(url), app).run()`` from a program.
"""

from __future__ import annotations

from ...clients.redis_address import REDIS_SCHEMES
from .moving import Failed, Left, Mover, Report
from .serialized import Serialized, UnreadableError, serialized
from .source import Source

__all__ = ["Failed", "Left", "Mover", "Report", "Serialized", "UnreadableError", "gravito_source", "serialized"]


def gravito_source(url: str, *, prefix: str = "queue:", table: str = "jobs") -> Source:
    """Where the original keeps its jobs. ``prefix`` is that of its Redis keys, ``table`` the one in its database.

    Raises ``InvalidURL``, ``MissingExtra``, ``ConfigurationError``.
    """
    if url.partition("://")[0].lower() in REDIS_SCHEMES:
        from .redis_source import RedisSource

        return RedisSource.from_url(url, prefix)
    from .sql_source import SqlSource

    return SqlSource(url, table)
