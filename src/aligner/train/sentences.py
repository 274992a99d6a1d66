"""Sentence rows: triplets cut into (question, corrected so far, next sentence → its correction)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rapidfuzz.distance import LCSseq

from aligner import edits
from aligner.correct.sentences import parts, split
from aligner.types import Triplet

_LEAST = 0.34  # sentences that share less are two, not one that was changed


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRow:
    """A triplet, or a sentence of it, with what was corrected before and the white space behind it if more follows."""

    triplet: Triplet
    prefix: str = ""
    behind: str = ""


def sentence_rows(triplet: Triplet) -> Iterator[TrainingRow]:
    """One row for every sentence of the answer; none for an answer that is blank.

    A sentence that the correction leaves out has an empty correction. One that it adds belongs to the sentence behind
    it, or to the last one: only there can be known that it is missing.
    """
    sentences = split(triplet.answer)
    prefix = gap = ""
    for i, (sentence, correction) in enumerate(
        zip(sentences, aligned(sentences, split(triplet.correction)), strict=True)
    ):
        core, behind = parts(sentence)
        if not core:
            continue
        new = "".join(correction).strip()
        row = replace(triplet, answer=core, correction=new, id=f"{triplet.id}/{i}")
        more = any(s.strip() for s in sentences[i + 1 :])
        yield TrainingRow(triplet=row, prefix=prefix, behind=behind if more else "")
        # As it is joined when it is served: the white space is the answer's own.
        if new:
            prefix, gap = prefix + gap * bool(prefix) + new, behind


def aligned(old: Sequence[str], new: Sequence[str]) -> list[list[str]]:
    """For every old sentence the new ones that stand in its place, in order; every new one is in one place.

    The pairs that share most words, without crossing (dynamic programming). What lies between two pairs replaces what
    lay there, sentence by sentence; where nothing lay there, it belongs to the sentence behind it, at the end to the
    last one.
    """
    if not old:
        return []
    places: list[list[str]] = [[] for _ in old]
    pairs = [*_pairs([edits.words(s) for s in old], [edits.words(s) for s in new]), (len(old), len(new))]
    before_old = before_new = 0
    for i, j in pairs:
        for k, sentence in enumerate(new[before_new:j]):
            gap = i - before_old
            place = before_old + min(k, gap - 1) if gap else min(i, len(old) - 1)
            places[place].append(sentence)
        if j < len(new):
            places[i].append(new[j])
        before_old, before_new = i + 1, j + 1
    return places


def _pairs(old: Sequence[list[str]], new: Sequence[list[str]]) -> list[tuple[int, int]]:
    """Pairs of sentences, ascending in both, whose shares of common words add up to most."""
    best = [[0.0] * (len(new) + 1) for _ in range(len(old) + 1)]
    shares = [[_share(a, b) for b in new] for a in old]
    for i in range(len(old) - 1, -1, -1):
        for j in range(len(new) - 1, -1, -1):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], shares[i][j] + best[i + 1][j + 1])
    found: list[tuple[int, int]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        if shares[i][j] and best[i][j] == shares[i][j] + best[i + 1][j + 1]:
            found.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return found


def _share(a: Sequence[str], b: Sequence[str]) -> float:
    """2 · common words in order / words of both; sentences that share little but a stop have nothing in common."""
    total = len(a) + len(b)
    share = 2 * LCSseq.similarity(a, b) / total if total else 0.0
    return share if share > _LEAST else 0.0
