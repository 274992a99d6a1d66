"""Failures: of a corrector's errors, what a client is told and what is for the log alone."""

from __future__ import annotations

import logging

from aligner.errors import AlignerError, GenerationError, RequestError
from aligner.types import Correction

_log = logging.getLogger(__name__)


def did_not_fit(correction: Correction) -> bool:
    """Whether an answer, or a sentence of it, did not fit."""
    of_sentences = any(flag.startswith("kept_sentences:too_long:") for flag in correction.flags)
    return of_sentences or correction.kept_because == "too_long"


def reported(error: str | None) -> GenerationError:
    """The failure that a corrector tells of itself, whole or at the end of a stream."""
    return GenerationError(error or "it gives no reason")


def as_told(error: Exception) -> RequestError:
    """What a client is told of a corrector that failed. Where it runs, and how, is for the log alone."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, AlignerError):  # written to be read, by whoever runs the gateway
        _log.error("the corrector failed: %s", " ".join(str(error).split()))
        return _wrong("the corrector failed; the gateway's log says more")
    _log.error("the corrector failed: %s", type(error).__name__)  # others may hold anything
    return _wrong(f"the corrector failed ({type(error).__name__})")


def _wrong(message: str) -> RequestError:
    return RequestError(message, status=502, code="correction_failed")
