"""How two texts differ: the one measure of editing that every room uses. Pure functions on words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import regex
from rapidfuzz.distance import LCSseq, Levenshtein
from rapidfuzz.process import cdist

# Scripts that put no spaces between words count character by character; Korean has spaces, but changes inside them.
_ALONE = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# `\w` of `regex` holds combining marks, so that words of Indic scripts and decomposed accents stay whole.
_LETTER = rf"[\w--[_{_ALONE}]]"
_WORD = regex.compile(rf"[{_ALONE}]|{_LETTER}+(?:['’]{_LETTER}+)*|[^\w\s]|_", regex.V1)
_PIECE = regex.compile(rf"\s+|{_WORD.pattern}", regex.V1)
_SENTENCE = regex.compile(r"[^.!?\n。！？]*[.!?\n。！？]+|[^.!?\n。！？]+", regex.V1)
# The word diff takes a bit for every pair of words: 32 MiB.
_MOST_PAIRS = 1 << 28
# Pairs of words that are compared within some milliseconds.
_FEW_PAIRS = 1 << 22

Operation = Literal["equal", "insert", "delete"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One run of text that both sides share, or that only one of them has."""

    op: Operation
    text: str


def words(text: str) -> list[str]:
    """Words and punctuation marks of `text`, white space dropped; Chinese, Japanese, Korean, Thai, Lao, Khmer and
    Burmese count character by character.
    """
    found: list[str] = _WORD.findall(text)
    return found


def edit_ratio(before: str, after: str) -> float:
    """Word-level Levenshtein distance over the longer length: 0.0 is a copy but for white space, 1.0 shares nothing in
    place.
    """
    # Most corrections change little: the hint makes those a hundred times faster and the others half as slow again.
    return _measured(Levenshtein.normalized_distance, words(before), words(after), score_hint=0.0)


def copied_share(before: str, after: str) -> float:
    """Share of the words of `after` that stand in `before` in the same order (longest common subsequence).

    An empty `after` copies nothing and counts as 0.0.
    """
    target = words(after)
    return _measured(LCSseq.similarity, words(before), target) / len(target) if target else 0.0


def diff(before: str, after: str) -> tuple[Edit, ...]:
    """Word diff, white space kept: "equal" and "delete" runs join to `before`, "equal" and "insert" to `after`.

    Between two equal runs stands at most one deletion and then at most one insertion. Of texts too long to compare word
    by word (about 16,000 words each), equal sentences are found first and only what lies between them is compared by
    words; where even that is too long it is one deletion and one insertion.
    """
    runs: list[Edit] = []
    for equal, group in groupby(_runs(before, after), key=_is_equal):
        found = list(group)
        ops: tuple[Operation, ...] = ("equal",) if equal else ("delete", "insert")
        runs += [Edit(op=op, text=text) for op in ops if (text := _joined(found, op))]
    return tuple(runs)


def _measured(measure: Callable[..., float], old: list[str], new: list[str], **more: Any) -> float:
    """What rapidfuzz measures of two lists of words; of long ones without stopping all other threads for seconds, as
    only its measures of many pairs do."""
    if len(old) * len(new) <= _FEW_PAIRS:
        return float(measure(old, new, **more))
    return float(cdist([old], [new], scorer=measure, dtype="float64", **more)[0, 0])


def _runs(before: str, after: str, by_sentence: bool = True) -> Iterator[Edit]:
    """Runs that join to both sides; neighbours may be of one kind, and some are empty."""
    old, new = _PIECE.findall(before), _PIECE.findall(after)
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    yield Edit(op="equal", text="".join(old[:start]))
    middle = old[start : len(old) - end], new[start : len(new) - end]
    if _fits(*middle):
        yield from _compared(*middle)
    else:
        rest, other = map("".join, middle)
        sentences = _SENTENCE.findall(rest), _SENTENCE.findall(other)
        if by_sentence and _fits(*sentences):
            for same, group in groupby(_compared(*sentences), key=_is_equal):
                found = list(group)
                if same:
                    yield from found
                else:
                    yield from _runs(_joined(found, "delete"), _joined(found, "insert"), by_sentence=False)
        else:
            yield Edit(op="delete", text=rest)
            yield Edit(op="insert", text=other)
    yield Edit(op="equal", text="".join(old[len(old) - end :]))


def _is_equal(run: Edit) -> bool:
    return run.op == "equal"


def _fits(old: list[str], new: list[str]) -> bool:
    return len(old) * len(new) <= _MOST_PAIRS


def _common(old: list[str], new: list[str]) -> int:
    """How many pieces both begin with."""
    return next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


def _compared(old: list[str], new: list[str]) -> Iterator[Edit]:
    for block in LCSseq.opcodes(old, new):
        if block.tag == "equal":
            yield Edit(op="equal", text="".join(old[block.src_start : block.src_end]))
        else:
            yield Edit(op="delete", text="".join(old[block.src_start : block.src_end]))
            yield Edit(op="insert", text="".join(new[block.dest_start : block.dest_end]))


def _joined(runs: Iterable[Edit], op: Operation) -> str:
    return "".join(run.text for run in runs if run.op == op)
