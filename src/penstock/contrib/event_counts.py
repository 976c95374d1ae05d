"""Six numbers about events, as a small service likes to show them: published, processed, failed, and the shares of success."""

from __future__ import annotations

from typing import Any

from ..telemetry import Event, Finished, Published, PublishFailed


class EventCounts:
    """A listener of a telemetry hub. ``released`` messages count neither way: they come again as if never fetched."""

    def __init__(self) -> None:
        self.published = self.unpublished = self.processed = self.failed = 0

    def __call__(self, event: Event) -> None:
        """Count one event."""
        match event:
            case Published():
                self.published += event.count
            case PublishFailed():
                self.unpublished += event.count
            case Finished() if event.outcome in {"ack", "discard"}:
                self.processed += 1
            case Finished() if event.outcome in {"retry", "dead"}:
                self.failed += 1
            case _:
                pass

    def as_json(self) -> dict[str, Any]:
        """The numbers by their JSON names. A share of nothing is ``None``."""
        return {
            "publishedEvents": self.published,
            "failedEvents": self.unpublished,
            "processedEvents": self.processed,
            "failedProcessing": self.failed,
            "publishSuccessRate": _share(self.published, self.unpublished),
            "processingSuccessRate": _share(self.processed, self.failed),
        }


def _share(good: int, bad: int) -> float | None:
    return good / (good + bad) if good + bad else None
