"""A diff joins back to both of its sides, and the measures of editing keep to their bounds, for any texts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from aligner import edits
from aligner.edits import copied_share, diff, edit_ratio, words

anything = st.text(st.characters(exclude_categories=()), max_size=60)
# Few letters, so that the two sides have much in common.
alike = st.text("ab. \n我!_'", max_size=60)
pairs = st.tuples(anything, anything) | st.tuples(alike, alike)
limits = st.sampled_from([0, 4, 30, 1 << 28])


@settings(max_examples=500, deadline=None)
@given(pairs, limits)
def test_diff_joins_to_both_sides(pair: tuple[str, str], most_pairs: int) -> None:
    with mock.patch.object(edits, "_MOST_PAIRS", most_pairs):
        runs = diff(*pair)
    assert "".join(run.text for run in runs if run.op != "insert") == pair[0]
    assert "".join(run.text for run in runs if run.op != "delete") == pair[1]
    assert all(run.text for run in runs)
    allowed = {
        *(("equal", "delete"), ("equal", "insert"), ("delete", "insert"), ("delete", "equal"), ("insert", "equal"))
    }
    assert {(a.op, b.op) for a, b in pairwise(runs)} <= allowed


@settings(max_examples=300, deadline=None)
@given(anything)
def test_diff_of_a_copy(text: str) -> None:
    assert [(run.op, run.text) for run in diff(text, text)] == ([("equal", text)] if text else [])


def levenshtein(a: Sequence[str], b: Sequence[str]) -> int:
    """The textbook recurrence, row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, by the textbook recurrence."""
    row = [0] * (len(b) + 1)
    for x in a:
        above, row = row, [0]
        for j, y in enumerate(b, 1):
            row.append(above[j - 1] + 1 if x == y else max(above[j], row[j - 1]))
    return row[-1]


@settings(max_examples=300, deadline=None)
@given(pairs, st.sampled_from([0, 1 << 22]))
def test_measures(pair: tuple[str, str], few_pairs: int) -> None:
    old, new = words(pair[0]), words(pair[1])
    longer = max(len(old), len(new))
    with mock.patch.object(edits, "_FEW_PAIRS", few_pairs):
        assert edit_ratio(*pair) == (levenshtein(old, new) / longer if longer else 0.0)
        assert copied_share(*pair) == (common(old, new) / len(new) if new else 0.0)
    assert 0.0 <= edit_ratio(*pair) <= 1.0
    assert 0.0 <= copied_share(*pair) <= 1.0
    assert edit_ratio(*pair) == edit_ratio(*pair[::-1])


@settings(max_examples=300, deadline=None)
@given(anything)
def test_words_leave_out_only_white_space(text: str) -> None:
    spaces = {*"\x1c\x1d\x1e\x1f"}  # white space for str, marks for us
    assert "".join(words(text)) == "".join(c for c in text if not c.isspace() or c in spaces)


@settings(max_examples=300, deadline=None)
@given(pairs)
def test_diff_keeps_the_longest_common_subsequence(pair: tuple[str, str]) -> None:
    old, new = (edits._PIECE.findall(text) for text in pair)
    kept = [piece for run in diff(*pair) if run.op == "equal" for piece in edits._PIECE.findall(run.text)]
    assert len(kept) == common(old, new)
