"""Edit precision and recall by hand."""

from __future__ import annotations

import pytest

from aligner import edits
from aligner.evaluate.edit_metrics import EditCounts, EditTable, count_copied, count_edits

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


def test_a_copy_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = [count_edits(ANSWER, ANSWER + " ", spans) for spans in ([], [CHEESE])]  # words alike, and no copy
    monkeypatch.setattr(edits, "diff", None)
    assert [count_edits(ANSWER, ANSWER, spans) for spans in ([], [CHEESE])] == compared
    with pytest.raises(TypeError):
        count_edits(ANSWER, ANSWER + " ", [])


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


def row(answer: str, correction: str, spans: list[list[int]] | None, upstream: str = "u", task: str = "t"):
    return {"corrector": "c", "upstream": upstream, "task": task, "answer": answer, "correction": correction,
            "fault_spans": spans}  # fmt: skip


def test_copied_words_alone() -> None:
    assert count_copied(ANSWER, ANSWER) == EditCounts(copied=12, written=12)
    changed = ANSWER.replace("cheese", "rock")
    assert count_copied(ANSWER, changed) == EditCounts(copied=11, written=12)
    assert count_copied(ANSWER, "").copied_share is None


def test_a_table_adds_up_by_upstream_and_task() -> None:
    table = EditTable()
    good, bad = "a b c", "a b d"
    table.add(row(bad, good, [[4, 5]], "u", "t"))  # one faulty word, changed
    table.add(row(good, bad, [], "v", "t"))  # nothing was faulty, one changed
    table.add(row(bad, bad, [[4, 5]], "u", "s"))  # left as it was
    found = {(r["upstream"], r["task"]): r for r in table.rows(["c", "other"], ["v", "u"], ["s", "t"])}
    assert list(found) == [("v", "t"), ("v", "all"), ("u", "s"), ("u", "t"), ("u", "all"), ("all", "s"), ("all", "t"),
                           ("all", "all")]  # fmt: skip
    whole = found["all", "all"]
    assert (whole["answers"], whole["located"]) == (3, 3)
    assert (whole["changed"], whole["faulty"], whole["changed_faulty"]) == (2, 2, 1)
    assert (whole["precision"], whole["recall"]) == (0.5, 0.5)
    assert whole["copied_share"] == pytest.approx(7 / 9, abs=1e-4)
    assert (found["v", "t"]["precision"], found["v", "t"]["recall"]) == (0.0, None)


def test_changes_do_not_count_where_nobody_knows_what_is_faulty() -> None:
    table = EditTable()
    table.add(row("a b", "a c", None))
    old = row("a b", "a b", None)
    del old["fault_spans"]  # as runs before this wrote them
    table.add(old)
    for found in table.rows(["c"], ["u"], ["t"]):
        assert (found["answers"], found["located"], found["copied_share"]) == (2, 0, 0.75)
        assert (found["precision"], found["recall"], found["changed"], found["faulty"]) == (None,) * 4
