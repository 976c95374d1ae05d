"""Settings under which PostgreSQL or MySQL do not keep the guarantees, or not for long."""

from __future__ import annotations

import sqlalchemy as sa

from ...broker import Finding
from ...clients.sql import SqlOptions

_PACKET = 16 * 1024 * 1024
_DEAD_ROWS = 1_000_000


def diagnose_postgresql(conn: sa.Connection, options: SqlOptions) -> list[Finding]:
    """Ask the server for its settings and the tables for their dead rows."""
    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "autovacuum")
    got = {name: str(conn.scalar(sa.select(sa.func.current_setting(name)))) for name in names}
    found = [Finding(level="ok", subject="server version", detail=f"PostgreSQL {got['server_version']}")]
    found.append(_wanted("fsync", got["fsync"] == "on", "danger", "off: a crash of the machine may destroy everything"))
    found.append(
        _wanted("full_page_writes", got["full_page_writes"] == "on", "danger", "off: a power cut may destroy pages")
    )
    lasting = got["synchronous_commit"] in {"on", "remote_write", "remote_apply", "local"}
    late = "off: after a crash of the server the last commits may be missing, sent messages and acks among them"
    found.append(_wanted("synchronous_commit", lasting, "warning", late))
    bloat = "off: claimed and acked rows are never swept up, and claims become slower and slower"
    found.append(_wanted("autovacuum", got["autovacuum"] == "on", "danger", bloat))
    table = f"{options.prefix}messages"
    dead = conn.execute(
        sa.text("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = :name"), {"name": table}
    ).scalar()
    detail = f"{int(dead or 0)} dead rows in {table}"
    few = int(dead or 0) < _DEAD_ROWS
    held = f"{detail}: vacuum cannot keep up; look for long transactions in pg_stat_activity"
    found.append(Finding(level="ok" if few else "warning", subject="vacuum", detail=detail if few else held))
    return found


def diagnose_mysql(conn: sa.Connection, options: SqlOptions) -> list[Finding]:
    """Ask the server for its variables."""
    names = ("version", "innodb_flush_log_at_trx_commit", "max_allowed_packet", "innodb_doublewrite")
    got = {name: str(conn.exec_driver_sql(f"SELECT @@{name}").scalar()) for name in names}
    found = [Finding(level="ok", subject="server version", detail=got["version"])]
    late = "not 1: after a crash of the server the last commits may be missing, sent messages and acks among them"
    flushed = got["innodb_flush_log_at_trx_commit"] == "1"
    found.append(_wanted("innodb_flush_log_at_trx_commit", flushed, "warning", late))
    torn = "off: a power cut may destroy pages"
    found.append(_wanted("innodb_doublewrite", got["innodb_doublewrite"].upper() not in {"0", "OFF"}, "danger", torn))
    small = f"{got['max_allowed_packet']} bytes: a body of 7 MiB may not fit; set it to 16 MiB or more"
    found.append(_wanted("max_allowed_packet", int(got["max_allowed_packet"]) >= _PACKET, "warning", small))
    engine = conn.execute(
        sa.text("SELECT engine FROM information_schema.tables WHERE table_schema = database() AND table_name = :name"),
        {"name": f"{options.prefix}messages"},
    ).scalar()
    other = f"{engine}: only InnoDB has transactions and row locks"
    found.append(_wanted("engine", str(engine).lower() == "innodb", "danger", other))
    return found


def _wanted(subject: str, good: bool, level: str, otherwise: str) -> Finding:
    if good:
        return Finding(level="ok", subject=subject, detail="as it should be")
    return Finding(level="danger" if level == "danger" else "warning", subject=subject, detail=otherwise)
