"""Corrections of which next to nothing is left."""

from __future__ import annotations

from aligner import edits
from aligner.correct.guards.refusals import is_refusal

_LONG = 40  # words: an answer that has fewer may well be corrected by one word
_LEFT = 0.1


def collapses(answer: str, correction: str) -> bool:
    """Whether a long answer shrank to under a tenth of its words, by no refusal.

    Long is 40 words and more. A blank correction is emptied, not collapsed.
    """
    # A word has a character at least, so most corrections are done with here.
    if len(correction) > len(answer):
        return False
    old, new = len(edits.words(answer)), len(edits.words(correction))
    return old >= _LONG and 0 < new < _LEFT * old and not is_refusal(correction)
