"""``penstock worker`` with an App: which options it heeds, how they may be written, and who else refuses them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import penstock
from penstock.cli.locator import locate
from penstock.cli.root import run
from penstock.errors import ConfigurationError
from penstock.job import JOBS
from penstock.worker import Worker

APP = """
import os
from penstock import App, Consumer, Job, WorkerOptions, open_broker

app = App(
    {"default": "memory://", "other": "sqlite:///other.db"},
    worker_options=WorkerOptions(queues=["configured"], concurrency=3),
)
plain = Consumer(open_broker("memory://"), "plain", dict, lambda payload: None)
"""

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _own_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JOBS, "_classes", {})


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    name = f"shop_app_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(APP)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["worker", *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_an_app_works_on_what_it_was_configured_for(module: str, cli: Cli):
    code, out, _ = cli(f"{module}:app", "--dry-run", "--json")
    (shown,) = json.loads(out)
    assert (0, 3, "memory://") == (code, shown["concurrency"], shown["broker"])


@pytest.mark.parametrize(
    "said",
    [
        ["--connection=other", "--queues=emails,reports", "--workers=2"],
        ["--connection", "other", "--queues", " emails , reports,", "--workers", "2"],
    ],
)
def test_options_may_be_written_with_and_without_an_equals_sign(module: str, cli: Cli, said: list[str]):
    code, out, err = cli(f"{module}:app", *said, "--dry-run", "--json")
    assert (0, "") == (code, err)
    (shown,) = json.loads(out)
    assert "other.db" in shown["broker"]


def test_the_command_line_goes_before_the_apps_own_options(module: str):
    found = locate(
        [f"{module}:app"],
        said={"connection": "other", "queues": ("emails", "reports"), "max_attempts": 7, "timeout": 5.0},
    )
    assert not isinstance(found, Worker)
    (consumer,) = found
    assert [
        *("emails:critical", "emails:high", "emails", "emails:low"),
        *("reports:critical", "reports:high", "reports", "reports:low"),
    ] == [*consumer.subscription.queues]
    assert 3 == consumer.concurrency
    assert "other.db" in consumer.broker.url


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["--connection=third"], "there is no connection 'third'; there are default, other"),
        (["--queues=,"], "queues are names"),
        (["--max-attempts=0"], "0 is not in the range"),
        (["--workers=0"], "0 is not in the range"),
        (["--timeout=soon"], "'soon' is not a valid float"),
    ],
)
def test_what_cannot_be_is_said_at_once(module: str, cli: Cli, said: list[str], expected: str):
    code, _, err = cli(f"{module}:app", *said, "--dry-run")
    assert 2 == code
    assert expected in err


@pytest.mark.parametrize("target", ["plain", ""])
def test_what_is_no_app_refuses_its_options(module: str, cli: Cli, target: str):
    code, _, err = cli(f"{module}:plain" if target else module, "--queues=a", "--dry-run")
    assert 2 == code
    assert "queues can be said of an App only" in err


def test_a_module_with_nothing_but_an_app_stands_for_it(module: str, tmp_path: Path):
    (tmp_path / f"only_{module}.py").write_text("from penstock import App\napp = App()\nagain = app\n")
    found = locate([f"only_{module}"], said={"queues": ("a",)})
    assert not isinstance(found, Worker)
    assert ["a:critical", "a:high", "a", "a:low"] == [*found[0].subscription.queues]
    (tmp_path / f"two_{module}.py").write_text("from penstock import App\none, two = App(), App()\n")
    with pytest.raises(ConfigurationError, match="name what makes them"):
        locate([f"two_{module}"])


JOBS_OF_THE_SHOP = """
import os
from penstock import App, Job

app = App({"default": "memory://", "database": "sqlite:///jobs.db"})
with open("processes.txt", "a") as processes:
    print(os.getpid(), file=processes)


class Mail(Job, queue="emails", connection="database", backoff=0.05, max_attempts=2):
    number: int

    async def handle(self) -> None:
        with open("ran.txt", "a") as ran:
            print(self.number, self.tries, os.getpid(), file=ran)
        if self.number % 10 == 0:
            raise ValueError("no")
"""


def test_two_processes_work_off_an_apps_queue_on_sqlite_with_retries_and_dead_letters(tmp_path: Path):
    (tmp_path / "shop.py").write_text(JOBS_OF_THE_SHOP)
    push = (
        "import asyncio\nfrom shop import Mail, app\n"
        "async def main():\n    async with app:\n        await app.push_many([Mail(n) for n in range(200)])\n"
        "asyncio.run(main())"
    )
    source = str(Path(penstock.__file__).parents[1])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    env = {**inherited, "PYTHONPATH": source}
    subprocess.run([sys.executable, "-c", push], check=True, cwd=tmp_path, env=env, timeout=60)
    command = [
        "worker",
        "shop:app",
        "--connection=database",
        "--queues=emails",
        "--workers",
        "2",
        "--log-level=warning",
    ]
    with subprocess.Popen([sys.executable, "-m", "penstock", *command], cwd=tmp_path, env=env) as process:
        try:
            _until(lambda: 20 == _dead(tmp_path / "jobs.db") and 220 == len(_lines(tmp_path, "ran.txt")))
            _until(lambda: 3 == len(_lines(tmp_path, "processes.txt")))  # who pushes, and two who work
        finally:
            process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(30)
    ran = [tuple(map(int, line.split())) for line in _lines(tmp_path, "ran.txt")]
    assert [(n, tries) for n in range(200) for tries in ((1, 2) if n % 10 == 0 else (1,))] == sorted(
        (number, tries) for number, tries, _ in ran
    )
    assert {pid for _, _, pid in ran} <= {int(pid) for pid in _lines(tmp_path, "processes.txt")}


def _lines(directory: Path, name: str) -> list[str]:
    path = directory / name
    return path.read_text().splitlines() if path.exists() else []


def _dead(path: Path) -> int:
    database = sqlite3.connect(path)
    try:
        return int(database.execute("SELECT count(*) FROM penstock_dead").fetchone()[0])
    finally:
        database.close()


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
