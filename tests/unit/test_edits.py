"""How much was edited: numbers derived by hand, and diffs of texts of any length."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest
from rapidfuzz.process import cdist

from aligner import edits
from aligner.edits import Edit, copied_share, diff, edit_ratio, words


def ops(before: str, after: str) -> list[tuple[str, str]]:
    return [(run.op, run.text) for run in diff(before, after)]


def sides(runs: tuple[Edit, ...]) -> tuple[str, str]:
    return (
        "".join(run.text for run in runs if run.op != "insert"),
        "".join(run.text for run in runs if run.op != "delete"),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t", []),
        ("Don't stop, it’s 3.5!", ["Don't", "stop", ",", "it’s", "3", ".", "5", "!"]),
        ("snake_case", ["snake", "_", "case"]),
        ("GPT模型很好。3月", ["GPT", "模", "型", "很", "好", "。", "3", "月"]),
        ("日本語のカナ", list("日本語のカナ")),
        ("한국어", list("한국어")),
        ("𠀀𠀁", ["𠀀", "𠀁"]),  # Han outside the basic plane
        ("ไทย", list("ไทย")),
        ("cafe\u0301 naïve", ["cafe\u0301", "naïve"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("Привет, мир", ["Привет", ",", "мир"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", 0.0),
        ("a b c", "a b c", 0.0),
        ("a  b\nc", "a b c", 0.0),  # white space is no word
        ("", "a b", 1.0),
        ("a b", "", 1.0),
        ("a b c d", "a b x d", 1 / 4),  # one of four replaced
        ("a b c d", "a b d", 1 / 4),  # one of four deleted
        ("a b d", "a b c d", 1 / 4),
        ("a b", "b a", 1.0),  # two replacements, though one word keeps its order
        ("the cat sat.", "The cat sat.", 1 / 4),  # case counts
        ("我很好", "我不好", 1 / 3),
        ("a b c d e", "c d e f", 3 / 5),  # two deleted, one inserted
    ],
)
def test_edit_ratio(before: str, after: str, expected: float) -> None:
    assert edit_ratio(before, after) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", 0.0),
        ("a b", "", 0.0),
        ("", "a b", 0.0),
        ("a b c", "a b c", 1.0),
        ("a b c d", "b d", 1.0),  # all of the new text stands in the old
        ("a b", "b a", 1 / 2),
        ("a b c", "a x b y", 2 / 4),
        ("a", "a a a", 1 / 3),
        ("我很好", "我不好", 2 / 3),
    ],
)
def test_copied_share(before: str, after: str, expected: float) -> None:
    assert copied_share(before, after) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", []),
        ("a b", "a b", [("equal", "a b")]),
        ("", "a", [("insert", "a")]),
        ("a", "", [("delete", "a")]),
        ("a b c", "a x c", [("equal", "a "), ("delete", "b"), ("insert", "x"), ("equal", " c")]),
        ("a c", "a b c", [("equal", "a "), ("insert", "b "), ("equal", "c")]),
        ("a b c", "a c", [("equal", "a "), ("delete", "b "), ("equal", "c")]),
        ("a  b", "a b", [("equal", "a"), ("delete", "  "), ("insert", " "), ("equal", "b")]),
        ("今天很好", "今天不好", [("equal", "今天"), ("delete", "很"), ("insert", "不"), ("equal", "好")]),
    ],
)
def test_diff(before: str, after: str, expected: list[tuple[str, str]]) -> None:
    assert ops(before, after) == expected


class TestLongTexts:
    """Texts that are too long to compare every word with every other one."""

    @pytest.fixture(autouse=True)
    def few_pairs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(edits, "_MOST_PAIRS", 100)

    def test_equal_sentences_are_found_and_words_between_them_compared(self) -> None:
        before = "One is here. Two was there! Three is far? Four.\nFive ends it"
        after = "None is here. Two was there! Three is near? Four.\nSix ends it now"
        assert ops(before, after) == [
            *(("delete", "One"), ("insert", "None"), ("equal", " is here. Two was there! Three is ")),
            *(("delete", "far"), ("insert", "near"), ("equal", "? Four.\n")),
            *(("delete", "Five"), ("insert", "Six"), ("equal", " ends it"), ("insert", " now")),
        ]

    def test_beginning_and_end_in_common_are_taken_first(self) -> None:
        long = "word " * 500
        assert ops(long + "a " + long, long + "b " + long) == [
            *(("equal", long), ("delete", "a"), ("insert", "b"), ("equal", " " + long)),
        ]

    def test_one_text_begins_with_the_other(self) -> None:
        long = "word " * 500
        assert ops(long, long + "more") == [("equal", long), ("insert", "more")]
        assert ops("more " + long, long) == [("delete", "more "), ("equal", long)]

    def test_sentence_that_is_too_long_is_replaced_whole(self) -> None:
        old, new = " ".join("abcdefghijklmnop"), " ".join("bcdefghijklmnopq")
        assert ops(f"Same. {old}. End", f"Other. {new}. End") == [
            ("delete", f"Same. {old}"),
            ("insert", f"Other. {new}"),
            ("equal", ". End"),
        ]

    def test_more_sentences_than_can_be_compared(self) -> None:
        before, after = "a. b. " * 20, "b. c. " * 20
        runs = diff(before, after)
        assert sides(runs) == (before, after)
        assert len(runs) <= 4


def _random_text(kind: str, seed: int) -> str:
    draw = random.Random(seed)
    if kind == "words":
        return " ".join(f"w{draw.randrange(3000)}" for _ in range(20_000))
    if kind == "sentences":
        return " ".join(f"w{draw.randrange(3000)}" + "." * (i % 12 == 0) for i in range(20_000))
    return "".join(chr(0x4E00 + draw.randrange(2000)) for _ in range(100_000))


MEASURE = """
import random, resource, sys
sys.path.insert(0, sys.argv[1])
from test_edits import _random_text
from aligner.edits import diff
before, after = _random_text(sys.argv[2], 0), _random_text(sys.argv[2], 1)
limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
runs = diff(before, after)
assert "".join(r.text for r in runs if r.op != "insert") == before
assert "".join(r.text for r in runs if r.op != "delete") == after
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - limit) // 1024)
"""


@pytest.mark.parametrize("kind", ["words", "sentences", "cjk"])
def test_memory_of_texts_with_nothing_in_common(kind: str) -> None:
    """100,000 characters against 100,000 others; a bit for every pair of them would be 1.2 GB."""
    folder = __file__.rsplit("/", 1)[0]
    done = subprocess.run([sys.executable, "-c", MEASURE, folder, kind], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150


@pytest.mark.parametrize("kind", ["words", "sentences", "cjk"])
def test_time_of_long_texts(kind: str) -> None:
    before = _random_text(kind, 0)
    middle = len(before) // 2
    after = "New " + before[:middle] + " new " + before[middle:] + " new"
    start = time.process_time()
    assert edit_ratio(before, after) < 0.001
    assert copied_share(before, after) > 0.999
    assert sides(diff(before, after)) == (before, after)
    assert time.process_time() - start < 10


def test_edits_of_a_long_text_are_found_one_by_one() -> None:
    before = " ".join(f"Sentence {i} says {i * i}." for i in range(8_000))
    after = before.replace(" 5000 says", " 5000 said").replace("Sentence 10 ", "Phrase 10 ").replace("7999 says", "!")
    changes = [(run.op, run.text) for run in diff(before, after) if run.op != "equal"]
    assert changes == [
        *(("delete", "Sentence"), ("insert", "Phrase"), ("delete", "says"), ("insert", "said")),
        *(("delete", "7999 says"), ("insert", "!")),
    ]


def test_long_texts_are_measured_by_what_stops_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def spy(old: list[list[str]], new: list[list[str]], **more: object) -> object:
        counted.append(len(old[0]))
        return cdist(old, new, **more)

    monkeypatch.setattr(edits, "cdist", spy)
    for count, through in ((300, []), (3000, [3000, 3000])):
        before = " ".join(f"w{i}" for i in range(count))
        after = before.replace("w7 ", "seven ")
        assert (edit_ratio(before, after), copied_share(before, after)) == (1 / count, 1 - 1 / count)
        assert counted == through
