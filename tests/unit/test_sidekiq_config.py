"""A Sidekiq process's configuration: files as Ruby has them, environments, precedence, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import ConfigurationError
from penstock.sidekiq import settings
from penstock.sidekiq.config import Capsule, Config
from penstock.sidekiq.server import complaints

RUBYS = """
:concurrency: 3
:queues:
  - [critical, 2]
  - default
:timeout: 30
:max_retries: 5
labels: [blue]
production:
  :concurrency: 20
capsules:
  slow:
    concurrency: 1
    queues: [reports]
"""


def load(tmp_path: Path, text: str, env: str = "development", name: str = "sidekiq.yml") -> Config:
    path = tmp_path / name
    path.write_text(text)
    config = Config()
    config.update(settings.load(path, env))
    config.check()
    return config


def test_a_file_of_rubys_is_understood(tmp_path: Path):
    config = load(tmp_path, RUBYS)
    assert (3, 30, 5, ["blue"]) == (config.concurrency, config.timeout, config.max_retries, config.labels)
    assert ("weighted", {"critical": 2, "default": 0}) == (config.queues.mode, config.queues.weights)
    slow = config.capsules["slow"]
    assert (1, ("reports",), 4) == (slow.concurrency, slow.queues.names, config.total_concurrency)
    assert ["production"] == config.ignored


def test_the_section_of_the_environment_stands_above_the_file(tmp_path: Path):
    assert 20 == load(tmp_path, RUBYS, "production").concurrency


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"redis": {"url": "redis://r:1/2"}, "maxRetries": 7, "deadMaxJobs": 9, "queues": ["a", ["b", 3]]}'),
        ("a.toml", 'redis = "redis://r:1/2"\nmax_retries = 7\ndead_max_jobs = 9\nqueues = ["a", ["b", 3]]'),
    ],
)
def test_json_and_toml_say_the_same(tmp_path: Path, name: str, text: str):
    config = load(tmp_path, text, name=name)
    assert ("sidekiq+redis://r:1/2", 7, 9) == (config.broker_url, config.max_retries, config.dead_max_jobs)
    assert ("a", "b") == config.queues.names


def test_the_environment_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLOTS", "4")
    text = "concurrency: <%= ENV['SLOTS'] %>\ntimeout: <%= ENV.fetch('GRACE', 8) %>\ntag: ${TAG:-app}\n"
    config = load(tmp_path, text, name="sidekiq.yml.erb")
    assert (4, 8, "app") == (config.concurrency, config.timeout, config.tag)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("concurrency: 0", "concurrency of the capsule 'default'"),
        ("timeout: 0", "timeout"),
        ("queues: 5", "should be a list"),
        ("- a", "names and values"),
        ("a: [", "cannot be read"),
        ("tag: <%= `hostname` %>", "contains Ruby"),
        ("tag: ${NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE, which is not set"),
        ("tag: <%= ENV.fetch('NO_SUCH_VARIABLE') %>", "NO_SUCH_VARIABLE, which is not set"),
        ("strict_args: maybe", "strict_args"),
        ("verbose: loud", "verbose is true or false"),
        ("capsules: 5", "capsules should hold names and values"),
        ("capsules: {reports: 5}", "the capsule reports should hold names and values"),
        ("redis: 5", "redis is"),
        ("redis: {url: 5}", "redis is"),
        ("max_iteration_runtime: long", "max_iteration_runtime"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, text: str, match: str):
    with pytest.raises(ConfigurationError, match=match):
        load(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"none\.yml"):
        settings.load(tmp_path / "none.yml", "test")


def test_files_are_found_where_ruby_has_them(tmp_path: Path):
    assert settings.find([tmp_path]) is None
    folder = tmp_path / "app" / "config"
    folder.mkdir(parents=True)
    (folder / "sidekiq.json").write_text("{}")
    assert folder / "sidekiq.json" == settings.find([tmp_path, tmp_path / "app"])
    (folder / "sidekiq.yml").write_text("")
    assert folder / "sidekiq.yml" == settings.find([tmp_path / "app"])


def test_the_address_comes_from_where_ruby_takes_it(monkeypatch: pytest.MonkeyPatch):
    for name in ("REDIS_PROVIDER", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    config = Config()
    assert "sidekiq+redis://localhost:6379/0" == config.broker_url
    monkeypatch.setenv("REDIS_URL", "rediss://r/1")
    assert "sidekiq+rediss://r/1" == config.broker_url
    monkeypatch.setenv("MY_REDIS", "redis://mine")
    monkeypatch.setenv("REDIS_PROVIDER", "MY_REDIS")
    assert "sidekiq+redis://mine" == config.broker_url
    monkeypatch.setenv("REDIS_PROVIDER", "redis://mine")
    with pytest.raises(ConfigurationError, match="should name the variable"):
        _ = config.broker_url
    config.url = "memory://jobs"
    assert "memory://jobs" == config.broker_url


@pytest.mark.parametrize(
    ("queues", "facts"),
    [
        (["a", "b"], ("strict", {"a": 0, "b": 0})),
        ([("a", 1), ("b", 1)], ("random", {"a": 1, "b": 1})),
        (["a,3", "b,1"], ("weighted", {"a": 3, "b": 1})),
    ],
)
def test_a_capsule_says_how_it_reads(queues: list[str], facts: tuple[str, dict[str, int]]):
    said = Capsule("x", concurrency=2, queues=queues).facts()
    assert (2, *facts) == (said["concurrency"], said["mode"], said["weights"])


def test_events_have_names():
    with pytest.raises(ConfigurationError, match="startup"):
        Config().on("start", print)  # type: ignore[arg-type]


def test_a_name_that_a_configuration_has_not_is_no_silent_mistake():
    config = Config()
    with pytest.raises(ConfigurationError, match=r"no labelz, did you mean labels\?"):
        config.labelz = ["eu"]  # type: ignore[attr-defined]
    config.redis = {"url": "redis://r/1"}
    assert ("sidekiq+redis://r/1", {"url": "redis://r/1"}) == (config.broker_url, config.redis)
    config.redis = "redis://r/2"
    assert "redis://r/2" == config.url


def test_what_a_file_cannot_say_is_named_and_what_has_no_meaning_here_is_passed_over(tmp_path: Path):
    text = (
        "error_handlers: x\nclient_middleware: y\npoll_interval_average: 2\nheartbeat_interval: 5\nlabels: eu\ntag: 7\n"
    )
    config = load(tmp_path, text)
    assert ["error_handlers", "client_middleware"] == config.ignored
    assert ([], ["eu"], "7") == (config.error_handlers, config.labels, config.tag)


def test_a_server_that_may_lose_jobs_is_complained_of():
    assert [] == complaints({"redis_version": "7.0.15", "maxmemory_policy": "noeviction"})
    assert [] == complaints({"redis_version": "6.9", "valkey_version": "9.0.0"})
    (old,) = complaints({"redis_version": "6.2.1"})
    assert "Redis 6.2.1 is too old" in old
    (evicts,) = complaints({"redis_version": "8.0.0", "maxmemory_policy": "allkeys-lru"})
    assert "noeviction" in evicts
