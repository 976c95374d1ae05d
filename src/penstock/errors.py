"""Everything that penstock raises.

* PenstockError
  x ConfigurationError          wrong setup; raised before any I/O
    + InvalidURL                a broker address that cannot be understood
    + MissingExtra              an optional library is not installed
    + UnsupportedFeature        this broker cannot do what was asked
  x BrokerError                 the broker failed while doing its work
    + ConnectionFailed          it could not be reached, or the connection broke (retryable)
    + AccessDenied              wrong password, missing permission
    + PublishError              some messages of a batch were refused; carries the fate of each
    + NotArchived               the broker has the message, the archive does not have its row yet
    + NobodySubscribed          no pattern matches the channel of a notification; nothing was stored
  x PayloadError                a payload that does not fit
    + EncodeError               it cannot be written
    + DecodeError               it cannot be read
    + ValidationError           it can be read, but is not of the declared type
    + PayloadTooLarge           more bytes than allowed
    + ArgumentError             a job cannot be pushed as it was given; a ValueError too
  x HandlerError                a handler broke the contract
    + UnknownType               a message type nobody registered for
    + WrongReturn               it returned something that is no outcome
    + NotAcknowledged           it was to acknowledge an event by itself, and did not
    + HandlerTimeout            it ran for longer than its timeout; a TimeoutError too
    + LostLease                 raised by `context.check()`: another worker has the message

``retryable`` says whether the same call may succeed later without anybody changing anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class PenstockError(Exception):
    """Base class of everything that penstock raises."""

    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class ConfigurationError(PenstockError):
    """Wrong setup."""


class InvalidURL(ConfigurationError):
    """The broker address cannot be understood."""


class MissingExtra(ConfigurationError):
    """An optional library is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f"{package} is not installed; run: pip install 'penstock[{extra}]'")


class UnsupportedFeature(ConfigurationError):
    """This broker cannot do what was asked."""


class BrokerError(PenstockError):
    """The broker failed while doing its work."""


class ConnectionFailed(BrokerError):
    """The broker could not be reached, or the connection broke."""

    retryable = True


class AccessDenied(BrokerError):
    """The broker refused the credentials or the command."""


class PublishError(BrokerError):
    """Some messages of a batch were not published.

    ``results`` has one item for each message of the batch, in order: its id where it was published, else the error.
    """

    def __init__(self, results: Sequence[str | Exception]) -> None:
        self.results = tuple(results)
        failed = [r for r in results if isinstance(r, Exception)]
        what = "archived" if failed and all(isinstance(r, NotArchived) for r in failed) else "published"
        first = f"; first error: {failed[0]}" if failed else ""
        super().__init__(f"{len(failed)} of {len(results)} messages were not {what}{first}")


class NotArchived(BrokerError):
    """The broker has the message, the archive does not have its row yet.

    ``id``: the message's. Do not send it again: it is enqueued, and its row is written when the archive is back.
    """

    def __init__(self, ident: str, cause: object) -> None:
        self.id = ident
        super().__init__(f"published as {ident}, but the archive has no row of it yet ({cause}); do not send it again")


class NobodySubscribed(BrokerError):
    """No pattern matches the channel; nothing was stored."""


class PayloadError(PenstockError):
    """The payload does not fit."""


class EncodeError(PayloadError):
    """The payload cannot be written."""


class DecodeError(PayloadError):
    """The payload cannot be read."""


class ValidationError(PayloadError):
    """The payload can be read but is not of the declared type."""


class PayloadTooLarge(PayloadError):
    """The payload has more bytes than allowed."""


class ArgumentError(PayloadError, ValueError):
    """A job cannot be pushed as it was given."""


class HandlerError(PenstockError):
    """A handler broke the contract."""


class UnknownType(HandlerError):
    """No handler is registered for this message type."""


class WrongReturn(HandlerError):
    """The handler returned something that is no outcome."""


class NotAcknowledged(HandlerError):
    """The handler came to its end without a word: with auto_ack=False it has to call header.ack()."""


class HandlerTimeout(HandlerError, TimeoutError):
    """The handler ran for longer than its timeout."""


class LostLease(HandlerError):
    """The lease of the running job has passed to another worker."""
