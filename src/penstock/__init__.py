"""penstock: background jobs, event streams and notifications over the brokers that people already run.

The names below are the public API. Importing the package loads none of them, and no third-party library, before it is
used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .app import open_broker as open_broker
    from .app import open_store as open_store
    from .batches import Batch as Batch
    from .broker import Broker as Broker
    from .broker import Capabilities as Capabilities
    from .brokers.console import ConsoleBroker as ConsoleBroker
    from .codec import Codec as Codec
    from .consumer import Consumer as Consumer
    from .context import Context as Context
    from .context import current as current
    from .errors import AccessDenied as AccessDenied
    from .errors import BrokerError as BrokerError
    from .errors import ConfigurationError as ConfigurationError
    from .errors import ConnectionFailed as ConnectionFailed
    from .errors import HandlerTimeout as HandlerTimeout
    from .errors import LostLease as LostLease
    from .errors import NobodySubscribed as NobodySubscribed
    from .errors import PayloadError as PayloadError
    from .errors import PayloadTooLarge as PayloadTooLarge
    from .errors import PenstockError as PenstockError
    from .errors import PublishError as PublishError
    from .errors import ValidationError as ValidationError
    from .events.batched import BatchedEventPublisher as BatchedEventPublisher
    from .events.batched import EventBatch as EventBatch
    from .events.consumer import EventConsumer as EventConsumer
    from .events.consumer import deduplicated as deduplicated
    from .events.envelope import EventHeader as EventHeader
    from .events.failures import FailedEvent as FailedEvent
    from .events.publisher import EventPublisher as EventPublisher
    from .events.routing import Route as Route
    from .events.validation import EventValidator as EventValidator
    from .events.validation import Validity as Validity
    from .executor import Limits as Limits
    from .inspector import Inspector as Inspector
    from .intake import Prefetch as Prefetch
    from .job import Job as Job
    from .message import Envelope as Envelope
    from .message import Message as Message
    from .middleware.deduplicate import Deduplicate as Deduplicate
    from .middleware.ratelimit import RateLimit as RateLimit
    from .notifications.dead_letters import Cleanup as Cleanup
    from .notifications.manager import NotificationManager as NotificationManager
    from .notifications.message import Notification as Notification
    from .outcome import Ack as Ack
    from .outcome import DeadLetter as DeadLetter
    from .outcome import Outcome as Outcome
    from .outcome import Release as Release
    from .outcome import Retry as Retry
    from .pipeline import Middleware as Middleware
    from .plan import Claim as Claim
    from .plan import Options as Options
    from .producer import Idempotency as Idempotency
    from .producer import Producer as Producer
    from .producer import Send as Send
    from .queueing.application import App as App
    from .queueing.failed import FailedJob as FailedJob
    from .queueing.working import WorkerOptions as WorkerOptions
    from .queues import Queues as Queues
    from .rate import Rate as Rate
    from .retry import Constant as Constant
    from .retry import Delays as Delays
    from .retry import Exponential as Exponential
    from .retry import ExponentialJitter as ExponentialJitter
    from .retry import Linear as Linear
    from .retry import RetryPolicy as RetryPolicy
    from .retry_daemon import RetryDaemon as RetryDaemon
    from .shutdown import stopping as stopping
    from .store import IdempotencyCache as IdempotencyCache
    from .store import Store as Store
    from .stores.archive import Archive as Archive
    from .telemetry import TELEMETRY as TELEMETRY
    from .telemetry import Telemetry as Telemetry
    from .trace_context import trace_headers as trace_headers
    from .worker import Worker as Worker

_HOMES = {
    "app": "open_broker open_store",
    "batches": "Batch",
    "broker": "Broker Capabilities",
    "codec": "Codec",
    "consumer": "Consumer",
    "context": "Context current",
    "errors": "AccessDenied BrokerError ConfigurationError ConnectionFailed HandlerTimeout LostLease NobodySubscribed PayloadError "
    "PayloadTooLarge PenstockError PublishError ValidationError",
    "brokers.console": "ConsoleBroker",
    "events.batched": "BatchedEventPublisher EventBatch",
    "events.failures": "FailedEvent",
    "events.consumer": "EventConsumer deduplicated",
    "events.envelope": "EventHeader",
    "events.publisher": "EventPublisher",
    "events.routing": "Route",
    "events.validation": "EventValidator Validity",
    "executor": "Limits",
    "inspector": "Inspector",
    "intake": "Prefetch",
    "job": "Job",
    "message": "Envelope Message",
    "queues": "Queues",
    "middleware.deduplicate": "Deduplicate",
    "middleware.ratelimit": "RateLimit",
    "notifications.dead_letters": "Cleanup",
    "notifications.manager": "NotificationManager",
    "notifications.message": "Notification",
    "outcome": "Ack DeadLetter Outcome Release Retry",
    "pipeline": "Middleware",
    "producer": "Idempotency Producer Send",
    "queueing.application": "App",
    "queueing.failed": "FailedJob",
    "queueing.working": "WorkerOptions",
    "rate": "Rate",
    "retry": "Constant Delays Exponential ExponentialJitter Linear RetryPolicy",
    "retry_daemon": "RetryDaemon",
    "plan": "Claim Options",
    "store": "IdempotencyCache Store",
    "stores.archive": "Archive",
    "shutdown": "stopping",
    "telemetry": "TELEMETRY Telemetry",
    "trace_context": "trace_headers",
    "worker": "Worker",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "TELEMETRY",
    "AccessDenied",
    "Ack",
    "App",
    "Archive",
    "Batch",
    "BatchedEventPublisher",
    "Broker",
    "BrokerError",
    "Capabilities",
    "Claim",
    "Cleanup",
    "Codec",
    "ConfigurationError",
    "ConnectionFailed",
    "ConsoleBroker",
    "Constant",
    "Consumer",
    "Context",
    "DeadLetter",
    "Deduplicate",
    "Delays",
    "Envelope",
    "EventBatch",
    "EventConsumer",
    "EventHeader",
    "EventPublisher",
    "EventValidator",
    "Exponential",
    "ExponentialJitter",
    "FailedEvent",
    "FailedJob",
    "HandlerTimeout",
    "Idempotency",
    "IdempotencyCache",
    "Inspector",
    "Job",
    "Limits",
    "Linear",
    "LostLease",
    "Message",
    "Middleware",
    "NobodySubscribed",
    "Notification",
    "NotificationManager",
    "Options",
    "Outcome",
    "PayloadError",
    "PayloadTooLarge",
    "PenstockError",
    "Prefetch",
    "Producer",
    "PublishError",
    "Queues",
    "Rate",
    "RateLimit",
    "Release",
    "Retry",
    "RetryDaemon",
    "RetryPolicy",
    "Route",
    "Send",
    "Store",
    "Telemetry",
    "ValidationError",
    "Validity",
    "Worker",
    "WorkerOptions",
    "__version__",
    "current",
    "deduplicated",
    "open_broker",
    "open_store",
    "stopping",
    "trace_headers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
