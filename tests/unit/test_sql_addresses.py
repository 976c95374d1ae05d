"""Addresses of SQL databases: what is understood, and what a wrong one is told."""

from __future__ import annotations

import importlib
import sys

import pytest

from penstock.clients.sql import SqlOptions
from penstock.errors import ConfigurationError, InvalidURL, MissingExtra


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///jobs.db", "jobs.db"),
        ("sqlite:///data/my%20jobs.db", "data/my jobs.db"),
        ("sqlite:////var/lib/jobs.db", "/var/lib/jobs.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
    ],
)
def test_an_address_names_a_file_or_memory(url: str, path: str | None) -> None:
    assert path == SqlOptions.from_url(url).path


def test_options_may_stand_in_the_query() -> None:
    options = SqlOptions.from_url("sqlite:///jobs.db?timeout=2.5&durability=full&prefix=shop_")
    assert (2.5, "full", "shop_") == (options.timeout, options.durability, options.prefix)


def test_an_argument_wins_over_the_query() -> None:
    assert 1.0 == SqlOptions.from_url("sqlite:///jobs.db?timeout=2.5", timeout=1.0).timeout


def test_the_address_is_told_as_it_was_given() -> None:
    for url in ("sqlite:///jobs.db", "sqlite:////var/lib/jobs.db", "sqlite://"):
        assert url == SqlOptions.from_url(url).url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "jobs.db",
        "postgre://localhost/jobs",
        "sqlite://jobs.db",
        "sqlite:///jobs.db?timeout=soon",
        "sqlite:///jobs.db?timeout=0",
        "sqlite:///jobs.db?timeout=nan",
        "sqlite:///jobs.db?durability=perhaps",
        "sqlite:///jobs.db?colour=blue",
        "sqlite:///jobs.db?prefix=a;b",
        "sqlite:///jobs.db#part",
    ],
)
def test_a_wrong_address_is_told_what_was_expected(url: str) -> None:
    with pytest.raises(InvalidURL, match=r"expected sqlite:///relative/path\.db") as caught:
        SqlOptions.from_url(url)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "mysql", "mariadb"])
def test_an_address_names_a_database_on_a_server_and_never_shows_its_password(scheme: str) -> None:
    options = SqlOptions.from_url(f"{scheme}://app:s%3Acret@db.example.org:1234/shop?timeout=2&pool=3&create=true")
    server = options.server
    assert server is not None
    assert ("db.example.org", 1234, "app", "s:cret", "shop") == (
        server.host, server.port, server.user, server.password, server.database
    )  # fmt: skip
    assert (2.0, 3, True) == (options.timeout, options.pool, options.create)
    assert options.url == f"{options.family}://app:***@db.example.org:1234/shop"
    assert "cret" not in f"{options!r} {options.url} {server!r}"


def test_what_the_client_library_understands_is_handed_on() -> None:
    options = SqlOptions.from_url("postgresql://app@db/shop?sslmode=verify-full&sslrootcert=ca.pem&listen=off")
    assert options.server is not None
    assert "postgresql://app@db/shop?sslmode=verify-full&sslrootcert=ca.pem" == options.server.dsn
    assert not options.listen


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("postgresql://localhost", "names no database"),
        ("postgresql://localhost/jobs?sslmod=require", "unknown option 'sslmod'"),
        ("postgresql://localhost/jobs?durability=full", "unknown option 'durability'"),
        ("postgresql://localhost/jobs?pool=many", "pool is a number"),
        ("mysql://localhost/jobs?listen=true", "unknown option 'listen'"),
        ("mysql://localhost/jobs?create=perhaps", "create is true or false"),
        ("mysql://localhost:port/jobs", "expected mysql://"),
    ],
)
def test_a_wrong_address_of_a_server_is_told_what_is_wrong_with_it(url: str, wrong: str) -> None:
    with pytest.raises(InvalidURL, match=wrong):
        SqlOptions.from_url(url)


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(InvalidURL, match="colour"):
        SqlOptions.from_url("sqlite:///jobs.db", colour="blue")
    with pytest.raises(ConfigurationError, match="durability is 'normal' or 'full'"):
        SqlOptions(path=None, durability="perhaps")  # type: ignore[arg-type]


def test_without_its_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    for name in [name for name in sys.modules if name.startswith(("penstock.clients.sql", "penstock.brokers.sql"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match=r"pip install 'penstock\[sqlite\]'"):
        importlib.import_module("penstock.brokers.sql")
