"""Corrections that say a sentence again: a small corrector that loses its place starts over, or runs in circles."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

from aligner.correct.guards.markdown import read

_WORDS = 5  # shorter ones may well come twice
_BORDER = re.compile(r"(?<=[.!?])\s+")
_ITEM = re.compile(r"\s*(?:[-*+|>#]|\d+[.)])")


def repeats(answer: str, correction: str) -> bool:
    """Whether the correction has a sentence of five words or more twice: one that the answer has once, or in a row.

    Refrains, and lists whose items are alike, are nobody's mistake: what is not in the answer may come again further
    on. Code, tables and items of lists do not count.
    """
    now = _sentences(correction)
    often = {sentence: count for sentence, count in Counter(now).items() if count > 1}
    if not often:
        return False
    before = Counter(_sentences(answer))
    in_a_row = {one for one, other in pairwise(now) if one == other}
    return any(count > before[s] and (s in in_a_row or before[s] == 1) for s, count in often.items())


def _sentences(text: str) -> list[str]:
    lines = (line.strip() for line in read(text).prose if not _ITEM.match(line))
    return [s for line in lines for s in _BORDER.split(line) if len(s.split()) >= _WORDS and s[-1] in ".!?"]
