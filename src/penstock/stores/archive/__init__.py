"""The archive: what became of each job, in a SQL database, for audits, searches and dashboards."""

from .archive import Archive
from .options import ArchiveOptions
from .rows import ArchivedJob, LogLine

__all__ = ["Archive", "ArchiveOptions", "ArchivedJob", "LogLine"]
