"""Traces: who sent it and who ran it are spans that know of each other, whatever became of the message in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as contexts
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from penstock import Consumer, DeadLetter, Producer, RetryPolicy, Worker, open_broker
from penstock.contrib.tracing import Tracing, system_of
from penstock.retry import Constant

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def parent_of(span: ReadableSpan) -> str:
    """The header that names this span."""
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


class Traced:
    """A stream in memory, traced on both sides."""

    def __init__(self, **options: Any) -> None:
        self.exporter, self.provider = InMemorySpanExporter(), TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.broker = open_broker("memory://")
        self.tracing = Tracing(self.broker, provider=self.provider, **options)
        self.producer = Producer(self.broker, "orders", dict, middleware=[self.tracing.sending])

    async def run(self, handler: Callable[..., Any], executions: int = 1) -> None:
        """Let a worker run until so many executions are over."""
        policy = RetryPolicy(max_attempts=2, backoff=Constant(delay=0.01))
        consumer = Consumer(
            self.broker, "orders", dict, handler, group="g", retry=policy, middleware=[self.tracing.processing]
        )
        async with asyncio.timeout(5), Worker(consumer):
            while len(self.named("process orders")) < executions:
                await asyncio.sleep(0.005)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def traced() -> Traced:
    return Traced()


async def test_a_send_and_its_execution_are_two_traces_that_are_linked(traced: Traced) -> None:
    async def handle(job: dict[str, int], context: Any) -> None:
        carried.append(context.headers["traceparent"])

    carried: list[str] = []
    ident = await traced.producer.send({"n": 1}, type="order.paid")
    await traced.run(handle)
    (sent,), (run,) = traced.named("send orders"), traced.named("process orders")
    assert (trace.SpanKind.PRODUCER, trace.SpanKind.CONSUMER) == (sent.kind, run.kind)
    (link,) = run.links
    assert (sent.context.trace_id, sent.context.span_id) == (link.context.trace_id, link.context.span_id)
    assert sent.context.trace_id != run.context.trace_id
    assert run.parent is None
    assert [parent_of(sent)] == carried
    assert {
        "messaging.system": "memory",
        "messaging.destination.name": "orders",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": ident,
        "messaging.consumer.group.name": "g",
        "messaging.message.body.size": 7,
        "penstock.message.type": "order.paid",
        "penstock.attempt": 0,
        "penstock.outcome": "ack",
    } == dict(run.attributes or {})
    assert ident == (sent.attributes or {})["messaging.message.id"]


async def test_one_trace_holds_both_if_it_is_asked_to() -> None:
    traced = Traced(one_trace=True)

    async def handle(job: dict[str, int]) -> None: ...

    await traced.producer.send({})
    await traced.run(handle)
    (sent,), (run,) = traced.named("send orders"), traced.named("process orders")
    assert (sent.context.trace_id, sent.context.span_id) == (run.context.trace_id, run.parent and run.parent.span_id)
    assert () == tuple(run.links)


async def test_each_execution_of_a_retried_message_is_linked_to_its_one_sender(traced: Traced) -> None:
    async def handle(job: dict[str, int]) -> None:
        raise OSError("not now")

    await traced.producer.send({})
    await traced.run(handle, executions=2)
    (sent,) = traced.named("send orders")
    runs = traced.named("process orders")
    assert [sent.context.span_id] * 2 == [run.links[0].context.span_id for run in runs]
    assert [0, 1] == [(run.attributes or {})["penstock.attempt"] for run in runs]
    assert {"OSError"} == {(run.attributes or {})["error.type"] for run in runs}
    assert [(trace.StatusCode.ERROR, "not now")] * 2 == [(r.status.status_code, r.status.description) for r in runs]
    assert [["exception"]] * 2 == [[event.name for event in run.events] for run in runs]


async def test_a_dead_letter_is_an_error_named_for_its_reason(traced: Traced) -> None:
    async def handle(job: dict[str, int]) -> DeadLetter:
        return DeadLetter("no such customer")

    await traced.producer.send({})
    await traced.run(handle)
    (run,) = traced.named("process orders")
    attributes = run.attributes or {}
    assert ("dead_letter", "no such customer") == (attributes["penstock.outcome"], attributes["error.type"])


@pytest.mark.parametrize("threaded", [False, True])
async def test_what_a_handler_does_is_inside_its_span_and_has_the_senders_baggage(
    traced: Traced, threaded: bool
) -> None:
    seen: list[tuple[int, object]] = []

    def note() -> None:
        seen.append((trace.get_current_span().get_span_context().span_id, baggage.get_baggage("tenant")))

    async def handle(job: dict[str, int]) -> None:
        note()

    def handle_in_a_thread(job: dict[str, int]) -> None:
        note()

    token = contexts.attach(baggage.set_baggage("tenant", "acme"))
    try:
        await traced.producer.send({})
    finally:
        contexts.detach(token)
    await traced.run(handle_in_a_thread if threaded else handle)
    (run,) = traced.named("process orders")
    assert [(run.context.span_id, "acme")] == seen
    assert trace.INVALID_SPAN == trace.get_current_span()


async def test_a_sender_that_gives_a_trace_itself_is_believed(traced: Traced) -> None:
    got: list[Any] = []

    async def handle(job: dict[str, int], context: Any) -> None:
        got.append(context.headers)

    headers = {"traceparent": PARENT, "tracestate": "v=1", "tenant": "acme"}
    await traced.producer.send({}, headers=headers)
    await traced.run(handle)
    assert [headers] == got
    (sent,), (run,) = traced.named("send orders"), traced.named("process orders")
    assert [0x00F067AA0BA902B7] * 2 == [span.links[0].context.span_id for span in (sent, run)]


@pytest.mark.parametrize("wrong", ["nonsense", "", 7, ["x"], {"a": 1}])
async def test_a_malformed_trace_is_replaced_when_sent_and_ignored_when_processed(traced: Traced, wrong: Any) -> None:
    got: list[Any] = []

    async def handle(job: dict[str, int], context: Any) -> None:
        got.append(context.headers.get("traceparent"))

    await traced.producer.send({}, headers={"traceparent": wrong, "tracestate": "v=1"})
    await Producer(traced.broker, "orders", dict).send({}, headers={"traceparent": wrong})
    await traced.run(handle, executions=2)
    (sent,) = traced.named("send orders")
    assert [1, 0] == [len(run.links) for run in traced.named("process orders")]
    assert [parent_of(sent), wrong] == got


async def test_a_publish_that_fails_is_an_error_on_its_span(traced: Traced) -> None:
    async def fail(*_: Any) -> Any:
        raise ConnectionError("gone")

    traced.broker.publish = fail
    with pytest.raises(ConnectionError):
        await traced.producer.send({})
    (sent,) = traced.named("send orders")
    assert ("ConnectionError", trace.StatusCode.ERROR) == (
        (sent.attributes or {})["error.type"],
        sent.status.status_code,
    )


@pytest.mark.parametrize(
    ("url", "system"),
    [
        ("redis://h", "redis"),
        ("rediss://h", "redis"),
        ("redis+cluster://h", "redis"),
        ("unix:///s", "redis"),
        ("valkeys://h", "valkey"),
        ("glide://h", "valkey"),
        ("kafkas://h", "kafka"),
        ("amqps://h", "rabbitmq"),
        ("rabbitmq://h", "rabbitmq"),
        ("sqs://", "aws_sqs"),
        ("postgresql://h", "postgresql"),
        ("mariadb://h", "mysql"),
        ("sqlite:///f", "sqlite"),
        ("sidekiq+redis://h", "sidekiq"),
        ("memory://", "memory"),
    ],
)
def test_a_broker_is_named_as_opentelemetry_names_it(url: str, system: str) -> None:
    assert system == system_of(url)
