"""Code fences that a correction lost or left open."""

from __future__ import annotations

import regex

from aligner.correct.guards.markdown import read, squeezed

_LETTER = regex.compile(r"\p{L}")
# Code that stood outside by mistake may well be moved in, and ends otherwise.
_SENTENCE = regex.compile(r"[\p{Sentence_Terminal}:：][\s\p{Pe}\p{Pf}\"'*_]*+\Z")


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
    """Whether a fence of the correction lost its end, and none of the answer did.

    It is never closed, or only by a later one's end: then its block holds the line that opens that one, or stands
    around sentences of the answer besides code of it.
    """
    if "```" not in correction and "~~~" not in correction:
        return False
    old, new = read(answer), read(correction)
    if new.open and not old.open:
        return True
    held = {squeezed(line) for block in old.blocks for line in block}
    if any(squeezed(line) not in held for line in new.openers):
        return True
    prose = {squeezed(line) for line in old.prose if _LETTER.search(line) and _SENTENCE.search(line)} - held
    code = {line for line in held if _LETTER.search(line)}
    blocks = ({squeezed(line) for line in block} for block in new.blocks)
    return any(block & prose and block & code for block in blocks)
