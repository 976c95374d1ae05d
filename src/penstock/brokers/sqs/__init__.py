"""The broker on Amazon SQS, and on servers that speak its protocol (``sqs://?region=eu-west-1``; extra ``sqs``)."""

from __future__ import annotations

from .broker import SqsBroker
from .options import SqsOptions

__all__ = ["SqsBroker", "SqsOptions"]
