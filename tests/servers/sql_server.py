"""A PostgreSQL or MariaDB for tests: somebody's, by URL, or our own process that a test may kill and bring back.

Ours are Debian's (``make servers`` installs them). PostgreSQL refuses to run as root: then it runs as the user
``postgres``. ``PENSTOCK_TEST_POSTGRESQL_URL`` and ``PENSTOCK_TEST_MYSQL_URL`` name running servers instead: the tables
``penstock_*`` in such a database are dropped by the tests.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.servers.redis_server import ServerUnavailableError, free_port

READY_WITHIN = 30.0
STOPPED_WITHIN = 15.0
PORT_ATTEMPTS = 5


class SqlServer(ABC):
    """A running server; ``url`` is its database for tests. Statements run on a plain client's connection."""

    scheme: str

    def __init__(self, url: str = "") -> None:
        self.url = url

    @abstractmethod
    async def query(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements, each committed by itself; the rows of the last one."""

    @abstractmethod
    async def tables(self) -> list[str]:
        """The names of penstock's tables."""

    @abstractmethod
    async def cut(self) -> None:
        """End every connection but our own."""

    async def wipe(self) -> None:
        """Drop penstock's tables."""
        await self.query(*[f"DROP TABLE IF EXISTS {name}" for name in await self.tables()])

    def flush(self) -> None:
        """The same, for code without a loop."""
        asyncio.run(self.wipe())

    async def clear(self) -> None:
        """Empty penstock's tables, which takes less time than to make them."""
        await self.query(*[f"DELETE FROM {name}" for name in await self.tables() if not name.endswith("_schema")])

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """The same as ``query``, for code without a loop."""
        return asyncio.run(self.query(*statements))


class PostgresServer(SqlServer):
    scheme = "postgresql"

    async def query(self, *statements: str) -> list[tuple[Any, ...]]:
        import asyncpg

        connection = await asyncpg.connect(self.url, timeout=5)
        try:
            found: list[Any] = []
            for statement in statements:
                found = await connection.fetch(statement, timeout=10)
            return [tuple(row) for row in found]
        finally:
            connection.terminate()

    async def tables(self) -> list[str]:
        found = await self.query("SELECT tablename FROM pg_tables WHERE tablename LIKE 'penstock%'")
        return [str(name) for (name,) in found]

    async def cut(self) -> None:
        await self.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
        )


class MySQLServer(SqlServer):
    scheme = "mysql"

    async def query(self, *statements: str) -> list[tuple[Any, ...]]:
        import aiomysql

        from penstock.clients.sql_address import ServerAddress

        where = ServerAddress.parse("mysql", self.url, {})
        connection = await aiomysql.connect(
            host=where.host, port=where.port, user=where.user, password=where.password or "", db=where.database,
            autocommit=True, connect_timeout=5,
        )  # fmt: skip
        try:
            async with connection.cursor() as cursor:
                for statement in statements:
                    await cursor.execute(statement)
                return list(await cursor.fetchall() or ()) if statements else []
        finally:
            connection.close()

    async def tables(self) -> list[str]:
        found = await self.query(
            "SELECT table_name FROM information_schema.tables"
            " WHERE table_schema = database() AND table_name LIKE 'penstock%'"
        )
        return [str(name) for (name,) in found]

    async def cut(self) -> None:
        found = await self.query(
            "SELECT id FROM information_schema.processlist WHERE id <> connection_id() AND user = 'root'"
        )
        for (number,) in found:
            try:
                await self.query(f"KILL {number}")
            except Exception as gone:
                if "1094" not in str(gone):  # unknown thread: it has ended by itself
                    raise


class _Own:
    """A server process of ours, on one port for its whole life, through kills and restarts."""

    url: str
    _process: subprocess.Popen[bytes] | None = None
    port = 0

    def _prepare(self) -> None:
        """Make the directory and what a new server needs in it."""
        raise NotImplementedError

    def _command(self, port: int) -> Sequence[str]:
        raise NotImplementedError

    def _address(self, port: int) -> str:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    directory: Path
    _orderly = signal.SIGTERM

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Any:
        """Start, or start again on the same port; returns when the server answers."""
        if self.running:
            return self
        if not self.port:
            self._prepare()
        attempts = 1 if self.port else PORT_ATTEMPTS  # between probe and bind somebody else may take a free port
        for _ in range(attempts):
            port = self.port or free_port()
            self.url = self._address(port)
            with (self.directory / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    self._command(port), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, cwd=self.directory,
                )  # fmt: skip
            if self._becomes_ready():
                self.port = port
                return self
            self.kill()
        text = (self.directory / "log").read_text(errors="replace")[-2000:]
        self.stop()
        raise RuntimeError(f"the server did not start:\n{text}")

    def kill(self) -> None:
        """``kill -9``."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop in an orderly way and start again, on the same port, with what is on disk."""
        self._end(self._orderly)
        self.start()

    def stop(self) -> None:
        """Stop for good and remove the server's files. May be called in any state, and twice."""
        self._end(self._orderly)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _becomes_ready(self) -> bool:
        deadline = time.monotonic() + READY_WITHIN
        while self.running and time.monotonic() < deadline:
            try:
                if self._answers():
                    return True
            except Exception:
                time.sleep(0.05)
        return False

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if how == signal.SIGKILL:
                os.killpg(process.pid, how)  # PostgreSQL's backends too: a machine that goes down takes them all
            else:
                process.send_signal(how)
            process.wait(STOPPED_WITHIN)
        except (subprocess.TimeoutExpired, ProcessLookupError):
            process.kill()
            process.wait()


class OwnPostgres(_Own, PostgresServer):
    """``durable``: what was committed survives ``kill()`` of the machine too; else only that of the server."""

    _orderly = signal.SIGINT

    def __init__(self, *, durable: bool = False, options: Sequence[str] = ()) -> None:
        super().__init__()
        self._binaries = find_postgres()
        self._durable, self._options = durable, options
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-postgres-"))

    def _user(self) -> list[str]:
        if os.geteuid() != 0:
            return []
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    def _prepare(self) -> None:
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.directory, user.pw_uid, user.pw_gid)
        initdb = [str(self._binaries / "initdb"), "-D", str(self.directory / "data"), "-U", "postgres", "-A", "trust"]
        done = subprocess.run(
            [*self._user(), *initdb, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
            capture_output=True, text=True, check=False, cwd=self.directory,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr}")

    def _command(self, port: int) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(self.directory),
            "max_connections": "200",
            "fsync": "on" if self._durable else "off",
            "synchronous_commit": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
        }
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        more = [part for option in self._options for part in ("-c", option)]
        return [*self._user(), str(self._binaries / "postgres"), "-D", str(self.directory / "data"), *given, *more]

    def _address(self, port: int) -> str:
        return f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def _answers(self) -> bool:
        # It must be our process that answers, not one that took the port before it
        ((directory,),) = self.run("SELECT current_setting('data_directory')")
        return str(directory) == str(self.directory / "data")


class OwnMariaDB(_Own, MySQLServer):
    """``durable``: what was committed survives the machine's end too."""

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__()
        self._binary, self._durable = find_mariadb(), durable
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-mariadb-"))

    def _prepare(self) -> None:
        install = shutil.which("mariadb-install-db") or "mariadb-install-db"
        options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        # One that starts deletes what others of its kind have in the same folder for temporary tables
        own_folder = {**os.environ, "TMPDIR": str(self.directory)}
        done = subprocess.run(
            [install, "--no-defaults", f"--datadir={self.directory / 'data'}", *options, *self._user()],
            capture_output=True, text=True, check=False, cwd=self.directory, env=own_folder,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"mariadb-install-db failed: {done.stdout[-500:]} {done.stderr[-500:]}")

    def _user(self) -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []

    def _command(self, port: int) -> Sequence[str]:
        return [
            str(self._binary), "--no-defaults", f"--datadir={self.directory / 'data'}", "--bind-address=127.0.0.1",
            f"--tmpdir={self.directory}", f"--port={port}", f"--socket={self.directory / 's.sock'}", f"--pid-file={self.directory / 'pid'}",
            *self._user(), "--skip-name-resolve", "--skip-log-bin", "--innodb-buffer-pool-size=64M",
            f"--innodb-flush-log-at-trx-commit={1 if self._durable else 0}", "--performance-schema=OFF",
            "--character-set-server=utf8mb4", "--max-connections=300",
        ]  # fmt: skip

    def _address(self, port: int) -> str:
        return f"mysql://root@127.0.0.1:{port}/test"

    def _answers(self) -> bool:
        url, self.url = self.url, self.url.replace("/test", "/mysql")
        try:
            ((made,),) = self.run("SELECT count(*) FROM information_schema.schemata WHERE schema_name = 'test'")
            found = self.run(*([] if made or self.port else ["CREATE DATABASE test"]), "SELECT @@datadir")
        finally:
            self.url = url
        return str(found[0][0]).rstrip("/") == str(self.directory / "data")


def obtain_postgres() -> PostgresServer:
    """The server for ordinary tests: the one named by the environment, else one of our own, started."""
    url = os.environ.get("PENSTOCK_TEST_POSTGRESQL_URL")
    _need("asyncpg", "postgres")
    return PostgresServer(url) if url else OwnPostgres().start()


def obtain_mysql() -> MySQLServer:
    """The same for MySQL and MariaDB."""
    url = os.environ.get("PENSTOCK_TEST_MYSQL_URL")
    _need("aiomysql", "mysql")
    return MySQLServer(url) if url else OwnMariaDB().start()


def find_postgres() -> Path:
    """The folder of PostgreSQL's binaries; raises ServerUnavailableError."""
    _need("asyncpg", "postgres")
    on_path = shutil.which("initdb")
    places = [Path(on_path).parent] if on_path else []
    places += [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    raise ServerUnavailableError("postgresql is not installed (`make servers` does it, as root)")


def find_mariadb() -> Path:
    """The executable of MariaDB; raises ServerUnavailableError."""
    _need("aiomysql", "mysql")
    found = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ServerUnavailableError("mariadb-server is not installed (`make servers` does it, as root)")
    return Path(found)


def _need(library: str, extra: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise ServerUnavailableError(f"the client library is missing: pip install 'penstock[{extra}]'")
