"""The RabbitMQ driver: quorum queues, publisher confirms, delays by the server; the client library is aio-pika's aiormq."""

from __future__ import annotations

from .broker import RabbitmqBroker
from .options import RabbitmqOptions

__all__ = ["RabbitmqBroker", "RabbitmqOptions"]
