"""Redis or Valkey Streams with consumer groups, wire-compatible with glide-kit."""

from .broker import RedisStreamsBroker
from .options import Keys, Receipt, RedisStreamsOptions

__all__ = ["Keys", "Receipt", "RedisStreamsBroker", "RedisStreamsOptions"]
