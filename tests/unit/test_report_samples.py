"""Samples: which are picked, what is computed for them, and diffs that can be read."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner import edits
from aligner.report import samples


def groups(
    edit: Iterable[int] = (), kept: Iterable[int] = (), copy: Iterable[int] = ()
) -> dict[samples.Group, list[int]]:
    return {"edit": list(edit), "kept": list(kept), "copy": list(copy)}


def test_choice_takes_turns_and_fills_up() -> None:
    many, few = groups(edit=range(100, 200)), groups(edit=[1, 2], copy=[3])
    chosen = samples.choose([many, few], 10)
    assert set(chosen) == {1, 2, 3, *range(100, 107)}
    assert samples.choose([groups(copy=range(50))], 10) == list(range(10)), "places nobody wants go to who is left"
    assert samples.choose([groups(edit=[i]) for i in range(99)], 10) == list(range(10))
    assert samples.choose([], 10) == []


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), max_size=8),
    st.integers(0, 40),
)
def test_choice_is_full_and_has_no_doubles(sizes: list[tuple[int, int, int]], limit: int) -> None:
    ids = iter(range(10_000))
    sources = [groups(*([next(ids) for _ in range(n)] for n in size)) for size in sizes]
    chosen = samples.choose(sources, limit)
    known = [i for s in sources for g in samples.GROUPS for i in s[g]]
    assert len(set(chosen)) == len(chosen) == min(limit, len(known))
    assert set(chosen) <= set(known)
    inhabited = [s for s in sources if any(s.values())]
    seen = [s for s in inhabited if any(i in chosen for g in samples.GROUPS for i in s[g])]
    assert len(seen) == min(limit, len(inhabited))


def test_measures_a_row_lacks_are_computed(tmp_path: Path) -> None:
    row = {"question": "Q?", "answer": "one two three four", "correction": "one two three five"}
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "correction": row["answer"]}))
    tally, shown = samples.read_samples(tmp_path / "s.jsonl")
    assert [(s.group, s.edit_ratio, s.copied_share) for s in shown] == [("edit", 0.25, 0.75), ("copy", 0.0, 1.0)]
    assert (shown[0].id, shown[0].source, shown[0].reference, shown[0].flags) == ("", "", None, ())
    assert tally.n == 2


def test_ratios_of_corrections_and_references_are_counted(tmp_path: Path) -> None:
    row = {"answer": "one two three four", "correction": "one two three five", "reference": "one two six five"}
    rows = [row, {**row, "edit_ratio": 0.0, "reference_edit_ratio": 1.0}, {**row, "reference": None}]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tally, _ = samples.read_samples(tmp_path / "s.jsonl")
    assert {i: n for i, n in enumerate(tally.ratios) if n} == {0: 1, samples.ratio_bin(0.25): 2}
    assert {i: n for i, n in enumerate(tally.reference_ratios) if n} == {samples.ratio_bin(0.5): 1, 20: 1}


def test_texts_are_compared_up_to_a_length(tmp_path: Path) -> None:
    long = "word " * samples.CLIP
    rows = [
        {"question": long, "answer": long, "correction": long + "more", "reference": long},
        {"answer": "", "correction": ""},
    ]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cut, whole = samples.read_samples(tmp_path / "s.jsonl")[1]
    assert cut.cut
    assert not whole.cut
    assert cut.group == "edit"
    shown = ["".join(e.text for e in cut.edits), cut.reference or "", cut.question[0].content]
    assert shown == [long[: samples.CLIP]] * 3


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.0, 0), (0.001, 1), (0.05, 1), (0.0501, 2), (0.95, 19), (1.0, 20), (7.0, 20), (-1.0, 0), (math.nan, 0)],
)
def test_ratio_bins(ratio: float, expected: int) -> None:
    assert samples.ratio_bin(ratio) == expected


# Diffs that can be read

texts = st.text(alphabet="ab c.\n", max_size=60)


@given(texts, texts)
def test_joining_edits_keeps_both_sides(before: str, after: str) -> None:
    joined = samples.readable(edits.diff(before, after))
    assert "".join(e.text for e in joined if e.op != "insert") == before
    assert "".join(e.text for e in joined if e.op != "delete") == after
    assert all(e.text for e in joined)
    assert len(joined) <= len(edits.diff(before, after))


def spelled(before: str, after: str) -> str:
    marks = {"equal": "{}", "delete": "[-{}]", "insert": "[+{}]"}
    return "".join(marks[e.op].format(e.text) for e in samples.readable(edits.diff(before, after)))


def test_joined_edits() -> None:
    assert spelled("a red car", "a blue bus") == "a [-red car][+blue bus]"
    assert spelled("the cat was old", "the dog was young") == "the [-cat][+dog] was [-old][+young]"
    assert spelled("very big and huge", "big and") == "[-very ]big and[- huge]", "deletions stay small"
    assert spelled("Same.", "Same.") == "Same."
    rewritten = spelled("A long sentence about the moon and the sea.", "Completely other words, the topic is sand.")
    assert rewritten.count("[-") == rewritten.count("[+") == 1


def test_joining_is_quick_on_long_texts() -> None:
    rng = random.Random(0)
    before, after = (" ".join(rng.choice("abcdefgh") for _ in range(8000)) for _ in range(2))
    joined = samples.readable(edits.diff(before, after))
    assert "".join(e.text for e in joined if e.op != "insert") == before
