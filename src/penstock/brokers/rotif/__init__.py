"""Rotif's dialect of Redis Streams: channels and patterns, shared with TypeScript services that use the original."""

from .broker import RotifBroker
from .options import RotifOptions

__all__ = ["RotifBroker", "RotifOptions"]
