"""Makes the generated parts of the reference from what the code declares.

``python -m tests.docs.generate`` rewrites them; ``test_reference.py`` fails when a page is behind the code. A part lies
between ``<!-- generated: name -->`` and ``<!-- end: name -->``; the rest of the page is written by hand.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard, get_args

import click
import msgspec

import penstock
from penstock import broker as port
from penstock import config, errors, open_broker, telemetry
from penstock.bindings import SupportsBindings
from penstock.cli.root import root
from penstock.departure import SupportsDeparture
from penstock.effects import SupportsTransaction

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = DOCS / "reference"
DECISIONS = DOCS / "explanation" / "decisions"

BROKERS = {
    "memory": "memory://",
    "SQLite file": "sqlite:///jobs.db",
    "SQLite in memory": "sqlite://",
    "PostgreSQL": "postgresql://localhost/jobs",
    "MySQL and MariaDB": "mysql://localhost/jobs",
    "Redis and Valkey Streams": "redis://localhost",
    "Kafka": "kafka://localhost",
    "Rotif": "rotif+redis://localhost",
    "Redis Pub/Sub": "pubsub+redis://localhost",
    "Sidekiq": "sidekiq+redis://localhost",
    "SQS": "sqs://?region=eu-west-1",
    "SQS, FIFO": "sqs://?region=eu-west-1&fifo=true",
    "RabbitMQ": "amqp://localhost",
}
CAPABILITIES = {
    "max_delay": "longest delay, in seconds",
    "ordered": "one consumer with one slot sees publish order",
    "fanout": "each group of a stream gets every message",
    "persistent": "survives a restart of the system",
    "binary": "a body may be any bytes",
    "idempotent": "publishes once for each key, in one step",
    "retentions": "how long a message may stay that every group has acked; the first is the default",
    "shared": "several processes may work on it",
    "several": "one fetch takes from several queues; elsewhere the engine looks into one after the other",
    "keyed": "messages of one key are taken one at a time and in order, across all workers",
    "own_leases": "each message has a lease of its own that lapses by time",
    "counted": "crashes of a message's owners are counted",
    "stable_ids": "a message keeps the id that `send` returned through delays and retries",
    "backfill": "a group that joins late gets what others have not finished",
    "atomic_settle": "every outcome is one step, even if the process dies in it",
    "max_batch": "most messages of one fetch",
    "max_body": "most bytes of one body",
}
PROTOCOLS = {
    port.SupportsSchedule: "delayed messages are moved by a scheduler, inside workers or as `RetryDaemon`",
    port.SupportsReclaim: "lapsed leases are taken over by the workers' reclaimer",
    port.SupportsGhosts: "others may delete messages under a lease; it counts them",
    port.SupportsTrim: "the workers' pruner sweeps up after owners long gone",
    SupportsTransaction: "publishes and acknowledges inside the caller's own SQL transaction",
    port.SupportsPresence: "keeps the list of living workers that `penstock stats` shows",
    SupportsBindings: "spreads what is posted to a channel to the patterns that match: notifications",
    SupportsDeparture: "a consumer that leaves its worker leaves nothing behind",
    port.SupportsPause: "keeps the list of paused streams, for `penstock pause` and `penstock resume`",
    port.SupportsInspect: "sizes, peek, dead letters, requeue, purge",
    port.SupportsDiagnosis: "`penstock doctor` can tell of unsafe settings",
}
WITHOUT_DOCSTRING = {
    "Outcome": "`Ack | Retry | DeadLetter | Release`: what a handler may return",
    "TELEMETRY": "the hub that producers, consumers and workers use unless given another",
    "__version__": "the version of this package",
}


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    columns = list(head)
    lines = [columns, ["---"] * len(columns), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def sentence(thing: Any) -> str:
    """The first sentence of a docstring, with single backticks as Markdown has them."""
    paragraph = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    first = re.split(r"(?<=[.:])\s+(?=[A-Z`])", paragraph)[0]
    return first.replace("``", "`").rstrip(".:")


def capabilities() -> str:
    brokers = {name: open_broker(url) for name, url in BROKERS.items()}
    declared = {name: each.capabilities for name, each in brokers.items()}
    assert set(CAPABILITIES) == set(port.Capabilities.__struct_fields__), "describe the new capability above"
    rows = [
        (f"`{field}`", meaning, *(_shown(getattr(each, field)) for each in declared.values()))
        for field, meaning in CAPABILITIES.items()
    ]
    return table(["capability", "meaning", *brokers], rows)


def protocols() -> str:
    brokers = {name: open_broker(url) for name, url in BROKERS.items()}
    rows = [
        (f"`{protocol.__name__}`", meaning, *(_shown(isinstance(each, protocol)) for each in brokers.values()))
        for protocol, meaning in PROTOCOLS.items()
    ]
    return table(["protocol", "meaning", *brokers], rows)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value)
    if value == port.FOREVER:
        return "any"
    return f"{value // 1024**2} MiB" if isinstance(value, int) and value % 1024**2 == 0 else f"{value}"


def error_tree() -> str:
    tree = [line for line in (errors.__doc__ or "").splitlines() if re.match(r"\s*[*x+] ", line)]
    return "```text\n" + "\n".join(tree) + "\n```"


def error_table() -> str:
    classes = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, Exception)]
    rows = [
        (f"`{each.__name__}`", f"`{each.__base__.__name__}`", sentence(each), _shown(each.retryable))
        for each in classes
    ]
    return table(["class", "kind of", "meaning", "retryable"], rows)


def api() -> str:
    return table(["name", "what it is"], [(f"`{name}`", _described(name)) for name in penstock.__all__])


def _described(name: str) -> str:
    if name in WITHOUT_DOCSTRING:
        return WITHOUT_DOCSTRING[name]
    text = sentence(getattr(penstock, name))
    assert text, f"{name} has no docstring"
    return text


def events() -> str:
    rows = [
        (f"`{event.__name__}`", ", ".join(f"`{field}`" for field in event.__struct_fields__), sentence(event))
        for event in get_args(telemetry.Event)
        if issubclass(event, msgspec.Struct)
    ]
    return table(["event", "fields", "when"], rows)


def metrics() -> str:
    from prometheus_client import CollectorRegistry

    from penstock.contrib.prometheus import PrometheusMetrics

    made = PrometheusMetrics(telemetry.Telemetry(), CollectorRegistry())
    collectors = [each for each in vars(made).values() if hasattr(each, "_labelnames")]
    rows = [
        (
            f"`{each._name}{'_total' if each._type == 'counter' else ''}`",
            each._type,
            ", ".join(f"`{label}`" for label in each._labelnames) or "none",
            each._documentation,
        )
        for each in collectors
    ]
    return table(["metric", "kind", "labels", "meaning"], rows)


def settings() -> str:
    meanings = _settings_described()
    rows = [
        (
            f"`{field.name}`",
            f"`PENSTOCK_{field.name.upper()}`",
            "none" if field.default is None else f"`{msgspec.json.encode(field.default).decode()}`",
            meanings.get(field.name, ""),
        )
        for field in msgspec.structs.fields(config.Settings)
    ]
    return table(["setting", "environment", "default", "meaning"], rows)


def _settings_described() -> dict[str, str]:
    """The help of the options that are settings, by setting."""
    found: dict[str, str] = {}
    for _, command in _commands(root, ("penstock",)):
        for option in command.params:
            if isinstance(option, click.Option) and option.name in config.Settings.__struct_fields__:
                found.setdefault(option.name, (option.help or "").split(" (")[0].rstrip("."))
    return found


def commands() -> str:
    """Every command: what it does, its arguments and options."""
    parts: list[str] = []
    for names, command in _commands(root, ("penstock",)):
        if isinstance(command, click.Group):
            continue
        arguments = [
            each.metavar or f"{each.name}".upper() for each in command.params if isinstance(each, click.Argument)
        ]
        usage = " ".join([*names, "[OPTIONS]", *arguments])
        about = inspect.cleandoc((command.help or "").split("\f")[0])
        rows = [(f"`{', '.join(o.opts + o.secondary_opts)}`", o.help or "") for o in command.params if _is_option(o)]
        parts.append(f"### `{usage}`\n\n{about}\n\n{table(['option', 'meaning'], rows)}")
    return "\n\n".join(parts)


def _commands(group: click.Group, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*names, name))


def _is_option(parameter: click.Parameter) -> TypeGuard[click.Option]:
    return isinstance(parameter, click.Option) and not parameter.hidden


def faults() -> str:
    """What ``make faults`` saw at its last run."""
    rows = [
        (
            row["fault"],
            row["server"],
            f"{row['sent']:,}",
            row["lost"] - row["lost_by_server"],
            f"{row['lost_by_server']:,}" if row["lost_by_server"] else 0,
            "<br>".join(f"{count:,}: {why}" for why, count in sorted(row["twice"].items())) or 0,
            row["resumed"],
            "stays green" if row["red"] is None else f"{row['red']} / {row['green']}",
            row["lines"],
        )
        for row in json.loads((REFERENCE / "faults.json").read_text(encoding="utf-8"))
    ]
    head = ["fault", "server", "jobs", "lost", "lost by the server", "run again, and why", "work goes on after"]
    return table([*head, "red after / green after", "log lines"], rows)


def decisions() -> str:
    """Every decision by its heading, ``# 0001: What was decided``."""
    headings = [(page, page.read_text(encoding="utf-8").partition("\n")[0]) for page in sorted(DECISIONS.glob("*.md"))]
    rows: list[tuple[str, str]] = []
    for page, heading in headings:
        number, _, decision = heading.removeprefix("# ").partition(": ")
        assert number == page.name[:4], f"{page.name} begins with {heading!r}, not with its number and a colon"
        rows.append((f"[{number}](decisions/{page.name})", decision))
    return table(("", "decision"), rows)


PARTS: dict[str, Callable[[], str]] = {
    "capabilities": capabilities,
    "protocols": protocols,
    "error-tree": error_tree,
    "error-table": error_table,
    "api": api,
    "events": events,
    "metrics": metrics,
    "settings": settings,
    "commands": commands,
    "faults": faults,
    "decisions": decisions,
}


def renewed(text: str) -> str:
    """The page with its generated parts as they should be. Raises ``KeyError`` for a part that nobody makes."""

    def part(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- generated: {name} -->\n\n{PARTS[name]()}\n\n<!-- end: {name} -->"

    return re.sub(r"<!-- generated: ([a-z-]+) -->.*?<!-- end: \1 -->", part, text, flags=re.DOTALL)


def pages() -> Iterator[Path]:
    """The pages with generated parts."""
    for page in sorted(DOCS.glob("**/*.md")):
        if "<!-- generated:" in page.read_text(encoding="utf-8"):
            yield page


def main() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := renewed(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(f"renewed {page.name}")


if __name__ == "__main__":
    main()
