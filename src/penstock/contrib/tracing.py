"""Traces by OpenTelemetry: a span for each message sent and one for each execution, by the semantic conventions.

==============================================  ========================================================================
attribute                                       value
==============================================  ========================================================================
``messaging.system``                            the kind of broker: ``redis``, ``kafka``, ``rabbitmq``, ``aws_sqs`` …
``messaging.destination.name``                  the stream
``messaging.operation.name`` and ``.type``      ``send``; ``process``
``messaging.message.id``                        the broker's id of the message
``messaging.message.body.size``                 bytes
``messaging.consumer.group.name``               the group (``process``)
``penstock.message.type``                       the message's type
``penstock.attempt``                            executions before this one (``process``)
``penstock.outcome``                            what the handler returned, unless it raised: ``ack``, ``retry`` … (``process``)
``error.type``                                  the class of the exception, or the reason of the dead letter
==============================================  ========================================================================

Needs the API only; without an SDK of the application's its spans are no-ops. What is not in a middleware list costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

from ..broker import Broker, Outgoing
from ..errors import MissingExtra
from ..message import Envelope
from ..outcome import Ack, DeadLetter, Outcome, Release, Retry
from ..trace_context import trace_headers

try:
    from opentelemetry import context as contexts
    from opentelemetry import propagate, trace
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
except ImportError as error:
    raise MissingExtra("opentelemetry-api", "otel") from error

SYSTEMS = {  # by the beginning of the scheme; any other scheme is its own name
    "redis": "redis",
    "unix": "redis",
    "valkey": "valkey",
    "glide": "valkey",
    "kafka": "kafka",
    "amqp": "rabbitmq",
    "rabbitmq": "rabbitmq",
    "sqs": "aws_sqs",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
}
OUTCOMES: dict[type[object], str] = {Ack: "ack", Retry: "retry", DeadLetter: "dead_letter", Release: "release"}


class Tracing:
    """Middleware for producers and consumers of ``broker``: ``tracing.sending`` and ``tracing.processing``.

    The span of an execution is a trace of its own, linked to the span that sent the message: a retry may come days
    later, and a batch has many senders. ``one_trace=True`` makes it a child instead, for backends that show no links.
    ``provider``: the application's own tracer provider, by default the global one.
    """

    def __init__(self, broker: Broker[Any], *, provider: TracerProvider | None = None, one_trace: bool = False) -> None:
        self._system, self._one_trace = system_of(broker.url), one_trace
        self._tracer = trace.get_tracer("penstock", tracer_provider=provider)

    async def sending(self, outgoing: Outgoing, call_next: Callable[[Outgoing], Awaitable[str]]) -> str:
        """Around a publish. The message carries the span's context, unless its sender has given it one."""
        message, stream = outgoing.message, outgoing.destination
        attributes = {**self._common("send", stream, message.type), "messaging.message.body.size": len(message.body)}
        given = trace_headers(message.headers)
        links = _links(_extracted(given)) if "traceparent" in given else []
        with self._tracer.start_as_current_span(
            f"send {stream}",
            kind=SpanKind.PRODUCER,
            attributes=attributes,
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            if not links:
                carried: dict[str, str] = {}
                propagate.inject(carried)
                headers = {**carried, **_without_trace(message.headers)}
                outgoing = replace(outgoing, message=replace(message, headers=headers))
            with _failures(span):
                ident = await call_next(outgoing)
            span.set_attribute("messaging.message.id", ident)
            return ident

    async def processing(
        self, envelope: Envelope[Any], call_next: Callable[[Envelope[Any]], Awaitable[Outcome]]
    ) -> Outcome:
        """Around a handler. What it does is inside the span, and its baggage is the sender's; in threads too."""
        job = envelope.context
        sender = _extracted(trace_headers(job.headers))
        links = [] if self._one_trace else _links(sender)
        if not self._one_trace:  # the baggage goes on, the trace is a new one
            sender = trace.set_span_in_context(trace.INVALID_SPAN, sender)
        attributes = {
            **self._common("process", job.stream, job.type),
            "messaging.message.id": job.id,
            "messaging.consumer.group.name": job.group,
            "messaging.message.body.size": len(envelope.message.body),
            "penstock.attempt": job.attempt,
        }
        token = contexts.attach(sender)
        try:
            with self._tracer.start_as_current_span(
                f"process {job.stream}",
                kind=SpanKind.CONSUMER,
                attributes=attributes,
                links=links,
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                with _failures(span):
                    outcome = await call_next(envelope)
                _tell(span, outcome)
                return outcome
        finally:
            contexts.detach(token)

    def _common(self, operation: str, stream: str, type_: str) -> dict[str, Any]:
        return {
            "messaging.system": self._system,
            "messaging.destination.name": stream,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "penstock.message.type": type_,
        }


def system_of(url: str) -> str:
    """The kind of broker at an address, as OpenTelemetry names it where it does."""
    scheme = url.partition("://")[0].partition("+")[0].lower()
    return next((name for beginning, name in SYSTEMS.items() if scheme.startswith(beginning)), scheme)


def _extracted(headers: Mapping[str, str]) -> contexts.Context:
    return propagate.extract(headers, context=contexts.Context())


def _links(context: contexts.Context) -> list[Link]:
    found = trace.get_current_span(context).get_span_context()
    return [Link(found)] if found.is_valid else []


def _without_trace(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers but for those of a trace: what is malformed must not go along beside ours."""
    return {name: value for name, value in headers.items() if name not in {"traceparent", "tracestate"}}


@contextmanager
def _failures(span: Span) -> Generator[None]:
    """Note what is raised, and raise it on."""
    try:
        yield
    except Exception as error:
        _failed(span, type(error).__qualname__, str(error), error)
        raise


def _tell(span: Span, outcome: object) -> None:
    """Note what was returned, if it is an outcome at all."""
    span.set_attribute("penstock.outcome", OUTCOMES.get(type(outcome), type(outcome).__name__))
    if isinstance(outcome, DeadLetter):
        _failed(span, outcome.reason, outcome.reason, outcome.error)
    elif isinstance(outcome, Retry) and outcome.error is not None:
        _failed(span, type(outcome.error).__qualname__, str(outcome.error), outcome.error)


def _failed(span: Span, kind: str, text: str, error: object) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, text)
    if isinstance(error, BaseException):
        span.record_exception(error)
