"""Kafka: consumer groups with an outcome for each message, retries in topics of their own, dead letters."""

from __future__ import annotations

from .broker import KafkaBroker
from .options import KafkaOptions

__all__ = ["KafkaBroker", "KafkaOptions"]
