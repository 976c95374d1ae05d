"""``penstock archive``: what people and programs see of the archive, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from penstock import Archive
from penstock.broker import Outgoing, Settlement
from penstock.cli.root import run
from penstock.message import Delivery, Message
from penstock.outcome import Ack, DeadLetter


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/archive.db"


@pytest.fixture
def filled(url: str) -> str:
    async def fill() -> None:
        async with Archive.from_url(url) as archive:
            await archive.setup()
            for n in range(3):
                at = time.time() - 86400 * n
                message = Message(id=f"job-{n}", type="mail", body=b'{"to":"\x1b[31m%d"}' % n, enqueued_at=at)
                archive.enqueued([Outgoing(destination="mails", message=message)], [message.id])
                delivery = Delivery(message=message, source="mails", group="g", receipt=0)
                outcome = DeadLetter("odd", ValueError("\x1b[31mred")) if n == 1 else Ack()
                archive.settled([Settlement(delivery=delivery, outcome=outcome)], confirmed=True)

    asyncio.run(fill())
    return url


def test_rows_are_listed_newest_first(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run(["archive", "list", "--url", filled, "--status", "failed"])
    shown = capsys.readouterr().out

    assert "ValueError: \N{REPLACEMENT CHARACTER}[31mred" in shown
    assert "\x1b" not in shown
    assert 0 == run(["archive", "list", "--url", filled, "--json", "--queue", "mails", "--limit", "4"])
    rows = json.loads(capsys.readouterr().out)
    assert 4 == len(rows)
    assert sorted((row["archived_at"] for row in rows), reverse=True) == [row["archived_at"] for row in rows]


def test_rows_are_chosen_by_time(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run(["archive", "list", "--url", filled, "--json", "--until", "2020-01-01T00:00:00Z"])
    assert [] == json.loads(capsys.readouterr().out)
    assert 0 == run(["archive", "list", "--url", filled, "--json", "--since", "2020-01-01", "--status", "waiting"])
    assert 3 == len(json.loads(capsys.readouterr().out))


def test_text_and_ids_are_searched(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run(["archive", "search", "--url", filled, "red", "--json"])
    assert ["job-1"] == [row["job_id"] for row in json.loads(capsys.readouterr().out)]
    assert 0 == run(["archive", "search", "--url", filled, "--ids", "job-2", "--json"])
    assert ["job-2", "job-2"] == [row["job_id"] for row in json.loads(capsys.readouterr().out)]


def test_a_job_is_shown_with_its_last_word_first(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run(["archive", "show", "--url", filled, "mails", "job-1"])
    shown = capsys.readouterr().out

    assert shown.index("failed") < shown.index("waiting")
    assert 1 == run(["archive", "show", "--url", filled, "mails", "job-9"])
    assert "nothing is known of job-9" in capsys.readouterr().err


def test_a_cleanup_says_first_what_it_would_delete(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["archive", "cleanup", "--url", filled, "--older-than", "36h"]
    assert 0 == run([*command, "--dry-run"])
    assert "1 would be deleted; nothing was changed\n" == capsys.readouterr().out
    assert 0 == run([*command, "--json"])
    assert {"rows": 1, "dry_run": False} == json.loads(capsys.readouterr().out)


def test_setting_up_prints_its_sql_or_does_it(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run(["archive", "setup", "--url", url, "--dry-run", "--table", "mine"])
    assert "CREATE TABLE mine (" in capsys.readouterr().out
    assert 0 == run(["archive", "setup", "--url", url])
    assert "flux_job_archive\n" in capsys.readouterr().out
    assert 0 == run(["archive", "setup", "--url", url])
    assert "nothing was missing\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list"], "there is no database"),
        (["list", "--since", "yesterday"], "expected a moment such as"),
        (["cleanup", "--older-than", "30"], "expected a number and one of s m h d w"),
        (["cleanup", "--older-than", "0d"], "expected a number and one of s m h d w"),
        (["list", "--table", "a;b"], "table is up to 41 letters"),
    ],
)
def test_wrong_use_is_answered_with_what_is_expected(
    url: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 == run(["archive", arguments[0], "--url", url, *arguments[1:]])
    assert said in capsys.readouterr().err


def test_the_environment_may_say_where_it_is(
    filled: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_ARCHIVE", filled)
    assert 0 == run(["archive", "list"])
    assert "job-0" in capsys.readouterr().out
