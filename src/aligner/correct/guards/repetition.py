"""Corrections that say a sentence again: a small corrector that loses its place starts over, or runs in circles."""

from __future__ import annotations

import re
from collections import Counter

from aligner.correct.guards.markdown import read

_WORDS = 5  # shorter ones, such as the lines of a song, may well come twice
_BORDER = re.compile(r"(?<=[.!?])\s+")


def repeats(answer: str, correction: str) -> bool:
    """Whether a sentence of five words or more stands in the correction twice, and not as often in the answer.

    Code and tables do not count.
    """
    often = {sentence: count for sentence, count in _sentences(correction).items() if count > 1}
    if not often:
        return False
    before = _sentences(answer)
    return any(count > before[sentence] for sentence, count in often.items())


def _sentences(text: str) -> Counter[str]:
    lines = (line for line in read(text).prose if not line.lstrip().startswith("|"))
    return Counter(
        sentence for line in lines for sentence in _BORDER.split(line.strip()) if len(sentence.split()) >= _WORDS
    )
