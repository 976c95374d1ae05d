"""Redis or Valkey Streams with consumer groups, wire-compatible with glide-kit, or with @logistically/events."""

from .broker import RedisStreamsBroker
from .events import EventsDialect
from .options import Keys, Receipt, RedisStreamsOptions

__all__ = ["EventsDialect", "Keys", "Receipt", "RedisStreamsBroker", "RedisStreamsOptions"]
