"""Edit precision and recall by hand."""

from __future__ import annotations

import pytest

from aligner.evaluate.edit_metrics import EditCounts, count_edits

ANSWER = "The moon is made of cheese. It is far away."
CHEESE = (ANSWER.index("cheese"), ANSWER.index("cheese") + len("cheese"))


def test_a_correction_that_changes_the_fault_and_nothing_else() -> None:
    found = count_edits(ANSWER, ANSWER.replace("cheese", "rock"), [CHEESE])
    assert (found.changed, found.faulty, found.changed_faulty) == (1, 1, 1)
    assert (found.precision, found.recall) == (1.0, 1.0)
    assert found.copied_share == pytest.approx(11 / 12)  # ten words and two full stops, one of them new


def test_a_correction_that_changes_a_good_word_too() -> None:
    found = count_edits(ANSWER, ANSWER.replace("cheese", "rock").replace("far", "long"), [CHEESE])
    assert (found.precision, found.recall) == (0.5, 1.0)


def test_a_copy_repairs_nothing_and_spoils_nothing() -> None:
    found = count_edits(ANSWER, ANSWER, [CHEESE])
    assert (found.precision, found.recall, found.copied_share) == (None, 0.0, 1.0)


def test_insertions_are_neither_right_nor_wrong() -> None:
    found = count_edits(ANSWER, ANSWER + " Indeed it is.", [])
    assert (found.changed, found.precision, found.recall) == (0, None, None)


def test_words_are_found_where_they_stand_not_where_they_stand_first() -> None:
    """The second "is" is changed and faulty; the first is not."""
    answer = "this is what it is"
    found = count_edits(answer, "this is what it was", [(16, 18)])
    assert (found.changed, found.changed_faulty, found.faulty) == (1, 1, 1)
    assert count_edits(answer, "this is what it was", [(5, 7)]).precision == 0.0


def test_counts_add_up() -> None:
    one, two = count_edits("a b", "a c", [(2, 3)]), count_edits("a b", "d b", [(2, 3)])
    both = sum([one, two], EditCounts())
    assert (both.precision, both.recall) == (0.5, 0.5)
    assert EditCounts().copied_share is None
