"""Settings and circumstances under which SQLite does not keep the guarantees, or not for long."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from ...broker import Finding
from ...clients.sql import SqlOptions

_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "davfs"})
_MOUNTS = Path("/proc/self/mounts")
_SCARCE = 512 * 1024 * 1024
_LONG = 256 * 1024 * 1024
_HASTY = 1.0


def diagnose(conn: sa.Connection, options: SqlOptions) -> list[Finding]:
    """Ask the database and the machine."""
    found = [
        Finding(level="ok", subject="sqlite version", detail=f"SQLite {sqlite3.sqlite_version}"),
        _journal(conn, options),
        _synchronous(conn),
    ]
    if options.path is None:
        return found
    return [*found, _filesystem(options.path), _space(options.path), _log(options.path), _patience(options)]


def _journal(conn: sa.Connection, options: SqlOptions) -> Finding:
    mode = str(conn.exec_driver_sql("PRAGMA journal_mode").scalar())
    if options.path is None:
        detail = "the database is in memory: everything is gone when this process ends"
        return Finding(level="danger", subject="journal_mode", detail=detail)
    if mode == "wal":
        return Finding(level="ok", subject="journal_mode", detail="wal: readers and the writer do not wait for another")
    detail = f"{mode}, not wal: readers block the writer; the file system may not support shared memory"
    return Finding(level="warning", subject="journal_mode", detail=detail)


def _synchronous(conn: sa.Connection) -> Finding:
    level = int(conn.exec_driver_sql("PRAGMA synchronous").scalar() or 0)
    if level >= 2:
        return Finding(level="ok", subject="synchronous", detail="full: every commit is on the disk")
    if level == 1:
        detail = "normal: survives a crash of the process; after a power cut the last commits may be missing"
        return Finding(level="ok", subject="synchronous", detail=f"{detail} (durability=full prevents that)")
    return Finding(level="danger", subject="synchronous", detail="off: a power cut may destroy the database")


def _filesystem(path: str) -> Finding:
    kind = _kind(Path(path).resolve())
    if kind in _NETWORK:
        detail = f"{kind} is a network file system: SQLite's locks and its wal are not safe there"
        return Finding(level="danger", subject="file system", detail=detail)
    return Finding(level="ok", subject="file system", detail=kind or "its kind could not be found out")


def _kind(path: Path) -> str:
    """The kind of the file system that holds ``path``; empty where the machine does not tell."""
    best, kind = -1, ""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        where = Path(fields[1].replace("\\040", " "))
        if path.is_relative_to(where) and len(where.parts) >= best:
            best, kind = len(where.parts), fields[2]
    return kind


def _space(path: str) -> Finding:
    free = shutil.disk_usage(Path(path).resolve().parent).free
    detail = f"{free // 1024**2} MiB free on the disk"
    if free >= _SCARCE:
        return Finding(level="ok", subject="disk space", detail=detail)
    detail += ": when it is full every send is refused; make room"
    return Finding(level="warning", subject="disk space", detail=detail)


def _log(path: str) -> Finding:
    wal = Path(f"{path}-wal")
    size = wal.stat().st_size if wal.exists() else 0
    detail = f"{size // 1024**2} MiB"
    if size < _LONG:
        return Finding(level="ok", subject="wal size", detail=detail)
    detail += ": it grows while a reader stays in one transaction, and makes all reads slower; end that reader"
    return Finding(level="warning", subject="wal size", detail=detail)


def _patience(options: SqlOptions) -> Finding:
    detail = f"calls wait {options.timeout:g} s for another writer"
    if options.timeout >= _HASTY:
        return Finding(level="ok", subject="timeout", detail=detail)
    detail += ", then fail with ConnectionFailed; with several processes give ?timeout=5"
    return Finding(level="warning", subject="timeout", detail=detail)
