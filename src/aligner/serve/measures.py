"""Measures: how far a correction is from its answer. Of long texts they take seconds, so a thread takes them."""

from __future__ import annotations

from dataclasses import dataclass

from aligner.correct.apart import apart, length
from aligner.types import Correction


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Shares of words (see `aligner.edits`); those of a copy where nothing else is said."""

    edit_ratio: float = 0.0
    copied_share: float = 1.0


async def measured(correction: Correction) -> Measures:
    """How much was edited."""
    if correction.is_copy:
        return Measures()
    return await apart(length((), correction.answer, correction.text), _measures, correction)


async def word_diff(correction: Correction) -> list[list[str]]:
    """The word diff, as JSON has it."""
    return await apart(length((), correction.answer, correction.text), _pairs, correction)


def _measures(correction: Correction) -> Measures:
    return Measures(edit_ratio=correction.edit_ratio, copied_share=correction.copied_share)


def _pairs(correction: Correction) -> list[list[str]]:
    return [[edit.op, edit.text] for edit in correction.diff]
