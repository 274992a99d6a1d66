"""Code fences that a correction lost or left open."""

from __future__ import annotations

import regex

from aligner.correct.guards.markdown import read, squeezed

_LETTER = regex.compile(r"\p{L}")


def loses_code_fence(answer: str, correction: str) -> bool:
    """Whether code stands outside its fence: most lines of a block of the answer do.

    Code that was taken out altogether is not lost: a refusal may well replace it.
    """
    if "```" not in answer and "~~~" not in answer:
        return False
    old, new = read(answer), read(correction)
    fenced = {squeezed(line) for block in new.blocks for line in block}
    loose = {squeezed(line) for line in new.prose} - fenced
    for block in old.blocks:
        code = {line for line in map(squeezed, block) if len(line) > 3 and _LETTER.search(line)}
        if 2 * len(code & loose) > len(code):
            return True
    return False


def leaves_fence_open(answer: str, correction: str) -> bool:
    """Whether the correction ends inside a fence that is never closed, and the answer does not."""
    return ("```" in correction or "~~~" in correction) and read(correction).open and not read(answer).open
