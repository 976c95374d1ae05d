"""The servers of the tests themselves: started on loopback, killed, restarted, stopped without a trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.servers.redis_server import OwnServer, Server, ServerUnavailableError, find_binary


def test_each_test_gets_an_empty_database(shared_server: Server):
    assert 0 == shared_server.call("DBSIZE")
    shared_server.call("SET", "left", "behind")


def test_a_server_listens_on_loopback_only(durable_server: OwnServer):
    assert [b"bind", b"127.0.0.1"] == _flat(durable_server.call("CONFIG", "GET", "bind"))


def test_a_durable_server_killed_and_started_again_has_lost_nothing(durable_server: OwnServer):
    url = durable_server.url
    durable_server.call("SET", "a", "1")

    durable_server.kill()
    assert not durable_server.running
    durable_server.start()

    assert url == durable_server.url
    assert b"1" == durable_server.call("GET", "a")


def test_a_restarted_server_keeps_its_port_and_its_data(durable_server: OwnServer):
    durable_server.call("SET", "a", "1")
    port = durable_server.port

    durable_server.restart()

    assert port == durable_server.port
    assert b"1" == durable_server.call("GET", "a")


def test_a_stopped_server_leaves_no_process_and_no_files(durable_server: OwnServer):
    info = durable_server.call("INFO", "server")
    directory = Path(_flat(durable_server.call("CONFIG", "GET", "dir"))[1].decode())

    durable_server.stop()
    durable_server.stop()

    with pytest.raises(ProcessLookupError):
        os.kill(info["process_id"], 0)
    assert not directory.exists()


def test_a_missing_server_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)

    with pytest.raises(ServerUnavailableError, match="redis-server"):
        find_binary("redis")


def _flat(reply: list[bytes] | dict[bytes, bytes]) -> list[bytes]:
    return [part for pair in reply.items() for part in pair] if isinstance(reply, dict) else list(reply)
