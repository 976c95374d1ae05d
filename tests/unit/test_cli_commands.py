"""Each command against SQLite: what it prints, what it changes, and its exit code."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import Consumer, DeadLetter, Producer, RetryPolicy, Worker, open_broker
from penstock.cli.root import COMMANDS, run
from penstock.telemetry import Finished, Telemetry
from tests.servers.redis_server import Server

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with nothing in it, in a current directory without settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("REDIS_URL", *(name for name in os.environ if name.startswith("PENSTOCK_"))):
        monkeypatch.delenv(name, raising=False)
    found = f"sqlite:///{tmp_path / 'jobs.db'}"

    async def create() -> None:
        broker = open_broker(found)
        await broker.open()
        await broker.close()

    asyncio.run(create())
    return found


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process: its exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(list(arguments))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def send(url: str, stream: str, bodies: Sequence[dict[str, Any]], **options: Any) -> None:
    async def main() -> None:
        broker = open_broker(url)
        try:
            await Producer(broker, stream, dict, default_type="email.send").send_many(bodies, **options)
        finally:
            await broker.close()

    asyncio.run(main())


def let_die(url: str, stream: str, reasons: Sequence[str], *, type_: str = "email.send", body: Any = None) -> None:
    """One dead letter for each reason, in this order."""

    async def main() -> None:
        broker, dead = open_broker(url), asyncio.Event()
        died: list[str] = []

        def listen(event: object) -> None:
            if isinstance(event, Finished):
                died.append(event.reason)
                if len(died) == len(reasons):
                    dead.set()

        async def handle(payload: dict[str, Any]) -> DeadLetter:
            return DeadLetter(payload["reason"], ValueError("does not work"))

        producer: Producer[dict[str, Any]] = Producer(broker, stream, dict, default_type=type_)
        await producer.send_many([{"reason": reason, **(body or {})} for reason in reasons])
        consumer = Consumer(broker, stream, dict, handle, concurrency=1, retry=RetryPolicy(max_attempts=1))
        async with Worker(consumer, telemetry=Telemetry(listen)), asyncio.timeout(10):
            await dead.wait()

    asyncio.run(main())


def dead_ids(cli: Cli, url: str, stream: str) -> list[str]:
    _, out, _ = cli("dlq", "peek", stream, "--limit", "1000", "--json", "-b", url)
    return [letter["id"] for letter in json.loads(out)]


# ------------------------------------------------------------------------------------------------------ the whole


def test_help_names_every_command_and_the_exit_codes(cli: Cli) -> None:
    code, out, _ = cli("--help")

    assert 0 == code
    assert [] == [name for name in COMMANDS if name not in out]
    assert "3 unhealthy" in out


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "dlq"])
def test_every_command_has_help(cli: Cli, command: str) -> None:
    assert 0 == cli(command, "--help")[0]


def test_the_version_is_the_packages(cli: Cli) -> None:
    assert (0, f"penstock {penstock.__version__}\n", "") == cli("--version")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nonsense"], 2, "No such command"),
        (["stats", "--nonsense"], 2, "No such option"),
        (["stats"], 2, "no broker; name one with --broker URL"),
        (["stats", "-b", "nonsense"], 2, "expected a URL"),
        (["stats", "-b", "foo://x"], 2, "no broker for foo://"),
        (["stats", "-b", "sqlite:///nowhere.db"], 2, "there is no database nowhere.db"),
        (["stats", "-b", "redis://:sesame@127.0.0.1:1"], 3, "cannot be reached"),
        (["doctor", "-b", "redis://:sesame@127.0.0.1:1"], 3, "cannot be reached"),
        (["dlq", "peek", "x", "-b", "redis://:sesame@127.0.0.1:1"], 3, "cannot be reached"),
        (["dlq", "requeue", "x", "-b", "memory://"], 2, "which dead letters?"),
        (["dlq", "requeue", "x", "1", "--all", "-b", "memory://"], 2, "not both"),
        (["dlq", "purge", "x", "--all", "-b", "memory://"], 2, "add --yes"),
        (["worker"], 2, "Missing argument"),
        (["worker", "no_such_module"], 2, "no module named 'no_such_module'"),
        (["worker", "x", "--processes", "none"], 2, "expected a whole number, at least 1, or auto; got 'none'"),
        (["worker", "x", "--max-jobs", "5"], 2, "need a supervisor; add --processes 1"),
        (["demo", "-b", "memory://"], 2, "lives in one process"),
        (["--config", "nowhere.toml", "stats"], 2, "nowhere.toml cannot be read"),
        (["retry-daemon", "x", "--dry-run", "--delayed", "y", "-b", "memory://"], 2, "leave --delayed out"),
    ],
)
@pytest.mark.usefixtures("url")
def test_an_error_is_one_clear_line_without_traceback_or_password(
    cli: Cli, arguments: list[str], code: int, text: str
) -> None:
    found, _, err = cli(*arguments)

    assert code == found
    assert text in err
    assert "Traceback" not in err
    assert "sesame" not in err


def test_debug_shows_the_traceback_wherever_it_stands(cli: Cli, url: str) -> None:
    assert "Traceback" in cli("stats", "--debug", "-b", "foo://x")[2]
    assert "Traceback" in cli("--debug", "stats", "-b", "foo://x")[2]


def test_a_wrong_password_is_unhealthy_and_never_shown(cli: Cli, redis_server: Server) -> None:
    code, _, err = cli("doctor", "-b", redis_server.url.replace("://", "://:sesame@"))

    assert 3 == code
    assert "refused us" in err
    assert "sesame" not in err


def test_print_config_shows_what_holds_and_why_with_secrets_masked(
    cli: Cli, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_DRAIN", "7")

    code, out, _ = cli("stats", "--print-config", "-b", "redis://:sesame@host")

    assert 0 == code
    assert "sesame" not in out
    assert "environment: PENSTOCK_DRAIN" in out
    assert "redis://:***@host" in out


@pytest.mark.parametrize("given", ["environment", "file"])
def test_the_broker_may_come_from_elsewhere(cli: Cli, url: str, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if given == "environment":
        monkeypatch.setenv("PENSTOCK_BROKER", url)
    else:
        Path("penstock.toml").write_text(f'broker = "{url}"\n')

    assert 0 == cli("stats")[0]


# ---------------------------------------------------------------------------------------------------------- stats


def test_stats_count_what_waits_is_delayed_and_dead(cli: Cli, url: str) -> None:
    let_die(url, "emails", ["no such address"])
    send(url, "emails", [{}, {}])
    send(url, "emails", [{}], delay=100)

    code, out, _ = cli("stats", "emails", "--json", "-b", url)
    _, plain, _ = cli("stats", "-b", url)

    (stream,) = json.loads(out)["streams"]
    assert 0 == code
    assert ("emails", 2, 1, 1) == (stream["source"], stream["size"], stream["delayed"], stream["dead"])
    assert [("default", 0, 2)] == [(g["name"], g["leased"], g["lag"]) for g in stream["groups"]]
    assert ["emails", "2", "1", "1"] == plain.splitlines()[1].split()[:4]
    assert "no workers alive" in plain


def test_stats_of_an_empty_broker_say_so(cli: Cli, url: str) -> None:
    assert (0, "no streams yet\n\nno workers alive\n") == cli("stats", "-b", url)[:2]


def test_stats_show_living_workers(cli: Cli, url: str) -> None:
    async def nothing(_: dict[str, Any]) -> None: ...

    async def beat() -> None:
        broker = open_broker(url)
        worker = Worker(Consumer(broker, "emails", dict, nothing))
        await broker.open()
        await broker.beat(worker.presence(broker), 60.0)  # type: ignore[attr-defined]
        await broker.close()

    asyncio.run(beat())

    (worker,) = json.loads(cli("stats", "--json", "-b", url)[1])["workers"]
    assert (os.getpid(), ["emails/default"], 0) == (worker["pid"], worker["consumers"], worker["busy"])
    assert "emails/default" in cli("stats", "-b", url)[1]


# ------------------------------------------------------------------------------------------------------------ dlq


def test_streams_are_paused_and_resumed_and_stats_show_it(cli: Cli, url: str) -> None:
    send(url, "email", [{}])
    dry = cli("pause", "email", "fax", "-b", url, "--dry-run")
    assert dry == (0, "email: would be paused\nfax: would be paused\n", "")
    assert cli("stats", "-b", url)[1].count("paused") == 0
    assert cli("pause", "email", "fax", "-b", url)[1].startswith("email: paused: workers notice within seconds\nfax:")
    assert cli("pause", "email", "-b", url) == (0, "email: is paused already\n", "")
    _, shown, _ = cli("stats", "-b", url)
    assert "email (paused)" in shown
    assert "also paused: fax" in shown
    assert json.loads(cli("stats", "-b", url, "--json")[1])["paused"] == ["email", "fax"]
    changes = json.loads(cli("resume", "email", "telex", "-b", url, "--json")[1])
    assert changes == [
        {"stream": "email", "paused": False, "changed": True, "dry_run": False},
        {"stream": "telex", "paused": False, "changed": False, "dry_run": False},
    ]
    assert cli("resume", "fax", "-b", url, "--dry-run")[1] == "fax: would be resumed\n"
    assert json.loads(cli("stats", "-b", url, "--json")[1])["paused"] == ["fax"]


def test_pausing_needs_a_stream(cli: Cli, url: str) -> None:
    assert cli("pause", "-b", url)[0] == 2


def test_peek_shows_reason_error_and_payload_oldest_first(cli: Cli, url: str) -> None:
    let_die(url, "emails", ["first", "second"], body={"to": "a@b.com"})

    code, out, _ = cli("dlq", "peek", "emails", "-b", url)

    assert 0 == code
    assert out.index("first") < out.index("second")
    assert "ValueError: does not work" in out
    assert '"to":"a@b.com"' in out
    assert out.endswith("2 of 2 dead letters of emails\n")


def test_peek_as_json_is_whole_and_goes_on_behind_an_id(cli: Cli, url: str) -> None:
    long = "x" * 2000
    let_die(url, "emails", ["first", "second"], body={"to": long})

    first, second = json.loads(cli("dlq", "peek", "emails", "--json", "-b", url)[1])
    (behind,) = json.loads(cli("dlq", "peek", "emails", "--after", first["id"], "--json", "-b", url)[1])

    assert second == behind
    assert ("first", "email.send") == (first["reason"], first["message"]["type"])
    assert {"reason": "first", "to": long} == json.loads(first["message"]["body"])
    assert long not in cli("dlq", "peek", "emails", "-b", url)[1]


def test_peek_says_how_to_see_more(cli: Cli, url: str) -> None:
    let_die(url, "emails", ["a", "b"])

    out = cli("dlq", "peek", "emails", "--limit", "1", "-b", url)[1]

    assert f"more: --after {dead_ids(cli, url, 'emails')[0]}" in out


def test_nothing_in_a_message_can_move_the_cursor(cli: Cli, url: str) -> None:
    let_die(url, "emails", ["\x1b[2Jboo\r"])

    out = cli("dlq", "peek", "emails", "-b", url)[1]

    assert "boo" in out
    assert "\x1b" not in out
    assert "\r" not in out


@pytest.mark.parametrize(
    ("choice", "done"),
    [
        (["--all"], 4),
        (["--reason", "bad address"], 1),
        (["--reason", "bad*"], 2),
        (["--type", "sms.send"], 1),
        (["--type", "sms.send", "--reason", "bad*"], 0),
        (["--all", "--limit", "3"], 3),
    ],
)
@pytest.mark.parametrize("command", ["requeue", "purge"])
def test_dead_letters_are_chosen_by_filters_and_a_dry_run_changes_nothing(
    cli: Cli, url: str, command: str, choice: list[str], done: int
) -> None:
    let_die(url, "jobs", ["bad address", "bad manners", "poison"])
    let_die(url, "jobs", ["busy"], type_="sms.send")
    yes = ["--yes"] if command == "purge" else []
    arguments = ["dlq", command, "jobs", *choice, "--json", "-b", url]

    code, out, _ = cli(*arguments, "--dry-run")
    rehearsed = json.loads(out)
    assert (0, done, 0) == (code, rehearsed["selected"], rehearsed["done"])
    assert 4 == len(dead_ids(cli, url, "jobs"))

    code, out, _ = cli(*arguments, *yes)
    assert (0, done) == (code, json.loads(out)["done"])
    assert 4 - done == len(dead_ids(cli, url, "jobs"))
    assert not set(rehearsed["ids"]) & set(dead_ids(cli, url, "jobs"))

    (stream,) = json.loads(cli("stats", "jobs", "--json", "-b", url)[1])["streams"]
    assert (done if command == "requeue" else 0) == stream["size"]


@pytest.mark.parametrize("command", ["requeue", "purge"])
def test_an_id_that_is_not_there_costs_exit_code_1_and_not_its_neighbours(cli: Cli, url: str, command: str) -> None:
    let_die(url, "jobs", ["a", "b"])
    first, second = dead_ids(cli, url, "jobs")
    yes = ["--yes"] if command == "purge" else []

    code, out, err = cli("dlq", command, "jobs", first, "999999-0", *yes, "-b", url)

    assert 1 == code
    assert f"{command.removesuffix('e')}ed 1" in out
    assert "1 not there any more" in err
    assert [second] == dead_ids(cli, url, "jobs")


# ---------------------------------------------------------------------------------------------------------- doctor


def test_the_doctor_lists_versions_capabilities_and_findings(cli: Cli, url: str) -> None:
    code, out, _ = cli("doctor", "--json", "-b", url)
    report = json.loads(out)

    assert 0 == code
    assert penstock.__version__ == report["penstock"]
    assert report["capabilities"]["persistent"] is True
    assert {"redis", "hiredis", "uvloop", "sqlalchemy"} <= set(report["libraries"])
    assert {"ok"} <= {finding["level"] for finding in report["findings"]}
    assert "is reachable" in cli("doctor", "-b", url)[1]


def test_danger_makes_the_doctor_exit_with_3(cli: Cli, url: str) -> None:
    code, out, _ = cli("doctor", "-b", "sqlite://")

    assert 3 == code
    assert "danger" in out
