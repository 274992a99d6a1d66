"""The published formats: small rows of our own in each form, and the real files where they lie."""

from __future__ import annotations

import csv
import json
from collections import Counter
from typing import Any, get_args

import pytest

from aligner.errors import DataError
from aligner.evaluate.formats import FORMATS, FormatName, convert
from aligner.evaluate.tasks import read_task
from aligner.rows import Row
from aligner.types import content_hash
from tests.published import FILES, published, spec_of
from tests.real import REAL_DATA, needs_real_data


def converted(name: FormatName, *values: dict[str, Any], seed: int = 0) -> list[dict[str, Any]]:
    rows = [Row(line=i, value=value) for i, value in enumerate(values, 2)]
    return [row.value for row in convert(name, rows, "file.csv", seed)]


def one(name: FormatName, **value: Any) -> dict[str, Any]:
    (found,) = converted(name, value)
    return found


def test_every_name_of_the_configuration_has_a_format() -> None:
    assert {"rows", *FORMATS} == set(get_args(FormatName))


def test_beavertails_and_harmfulqa() -> None:
    found = one("beavertails", prompt=" How? ", category="theft", category_id=3)
    assert found == {"id": content_hash("How?"), "question": "How?", "category": "theft"}
    found = one("harmfulqa", id=7, topic="Arts", subtopic="Film", question="How?", red_conversations=[])
    assert found == {"id": content_hash("How?"), "question": "How?", "topic": "Arts", "subtopic": "Film"}


def test_truthfulqa_as_a_file_and_as_on_the_hub() -> None:
    file = one("truthfulqa", **{
        "Type": "Adversarial", "Category": "Law", "Question": "May I?", "Best Answer": "Yes",
        "Correct Answers": "Yes; Of course;", "Incorrect Answers": "No", "Source": "x",
    })  # fmt: skip
    hub = one(
        "truthfulqa", type="Adversarial", category="Law", question="May I?", best_answer="Yes",
        correct_answers=["Yes", "Of course"], incorrect_answers=["No"], source="x",
    )  # fmt: skip
    assert file == hub
    assert (file["reference"], file["correct"], file["incorrect"]) == ("Yes", ["Yes", "Of course"], ["No"])


def test_truthfulqa_options_are_lettered_in_an_order_of_their_own() -> None:
    targets = {"Right": 1, "Wrong": 0, "Also wrong": 0}
    file = one("truthfulqa-mc", question="What?", mc1_targets=targets, mc2_targets={})
    hub = one("truthfulqa-mc", question="What?", mc1_targets={"choices": list(targets), "labels": [1, 0, 0]})
    # A Hub's column of objects has the options of every row as fields, None where they are not this row's.
    union = one("truthfulqa-mc", question="What?", mc1_targets={**targets, "Of another row": None})
    assert file == hub == union
    assert set(file["options"]) == set(targets)
    letters = dict(zip("ABC", file["options"], strict=True))
    assert letters[file["right"]] == "Right"
    assert file["question"] == "What?\n\n" + "\n".join(f"{letter}. {text}" for letter, text in letters.items())
    first = [
        one("truthfulqa-mc", question=f"What {i}?", mc1_targets=targets)["right"] for i in range(300)
    ]  # in the file the right one always stands first
    assert min(Counter(first)[letter] for letter in "ABC") > 70


def test_alpaca_eval_has_no_reference() -> None:
    found = one("alpaca-eval", instruction="Do it", dataset="koala", output="Done", generator="m")
    assert found == {
        "id": content_hash("Do it"), "question": "Do it", "dataset": "koala", "generator": "m", "output": "Done",
    }  # fmt: skip
    assert "dataset" not in one("alpaca-eval", instruction="Do it", output="Done", original_output="x")


def test_xstest_splits_by_label_which_the_type_has_too() -> None:
    row = {"prompt": "How to kill a lamp?", "type": "homonyms", "focus": "kill", "note": ""}
    found = one("xstest", id="4", label="safe", **row)
    assert (found["id"], found["split"], found["label"], found["focus"]) == ("4", "safe", "safe", "kill")
    assert "note" not in found
    assert one("xstest", **row)["label"] == "safe"
    assert one("xstest", **row)["id"] == content_hash("How to kill a lamp?")
    assert one("xstest", **row | {"type": "contrast_homonyms"})["label"] == "unsafe"
    with pytest.raises(DataError, match=r"file.csv:2: 'label' is 'fine'; expected safe or unsafe"):
        one("xstest", label="fine", **row)


def test_gsm8k_has_the_final_number() -> None:
    found = one("gsm8k", question="How many?", answer="2 + 3 = <<2+3=5>>5\n#### 1,005")
    assert (found["number"], found["reference"]) == ("1005", "2 + 3 = <<2+3=5>>5\n#### 1,005")
    with pytest.raises(DataError, match="'answer' has no last line with '####'"):
        one("gsm8k", question="How many?", answer="5")


def test_dialogsum_takes_summaries_of_one_row_or_of_several() -> None:
    file = converted("dialogsum", {"fname": "test_0", "dialogue": "#Person1#: Hi", "summary1": "a", "summary2": "b",
                                   "topic1": "t", "topic2": "u"})  # fmt: skip
    hub = converted(
        "dialogsum",
        {"id": "test_0_1", "dialogue": "#Person1#: Hi", "summary": "a", "topic": "t"},
        {"id": "test_0_2", "dialogue": "#Person1#: Hi", "summary": "b", "topic": "t"},
        {"id": "test_1_1", "dialogue": "#Person1#: Bye", "summary": "c", "topic": "v"},
    )  # fmt: skip
    assert file[0] == hub[0], "its id too, so that stored answers find it in either copy"
    assert (file[0]["reference"], file[0]["references"], file[0]["topic"]) == ("a", ["a", "b"], "t")
    assert [row["id"] for row in hub] == ["test_0", "test_1_1"]
    assert hub[1]["references"] == ["c"]
    assert converted("dialogsum", {"dialogue": "Hi"})[0]["references"] == []


def turns(id_: str, *texts: str, start: int = 1) -> list[dict[str, Any]]:
    return [
        {"conv_id": id_, "utterance_idx": str(start + i), "context": "proud", "prompt": "One day_comma_ so",
         "speaker_idx": str(5 + i % 2), "utterance": text, "selfeval": "", "tags": ""}
        for i, text in enumerate(texts)
    ]  # fmt: skip


def test_a_conversation_up_to_a_turn_of_the_person_who_tells() -> None:
    rows = turns("c", "one_comma_ he said ", "two", "three", "four")
    found = [converted("empathetic-dialogues", *rows, seed=seed)[0] for seed in range(20)]
    by_id = {row["id"]: row for row in found}
    assert by_id.keys() == {"c#1", "c#3"}, "both turns are drawn, and the id says which"
    assert by_id["c#1"]["question"] == [{"role": "user", "content": "one, he said"}]
    assert by_id["c#1"]["reference"] == "two"
    roles = [(turn["role"], turn["content"]) for turn in by_id["c#3"]["question"]]
    assert roles == [("user", "one, he said"), ("assistant", "two"), ("user", "three")]
    assert by_id["c#3"]["reference"] == "four"
    assert (by_id["c#3"]["emotion"], by_id["c#3"]["situation"]) == ("proud", "One day, so")
    again = converted("empathetic-dialogues", *reversed(rows), seed=3)[0]
    assert again == converted("empathetic-dialogues", *rows, seed=3)[0], "the order of the rows does not matter"
    numbers = [row | {"utterance_idx": int(row["utterance_idx"])} for row in rows]
    assert converted("empathetic-dialogues", *numbers, seed=3)[0] == again, "on the Hub the turns are numbers"


def test_conversations_that_end_with_the_person_who_tells() -> None:
    found = [converted("empathetic-dialogues", *turns("c", "one", "two", "three"), seed=s)[0] for s in range(10)]
    assert {row["id"] for row in found} == {"c#1"}, "the turn that was answered"
    alone = converted("empathetic-dialogues", *turns("c", "one"))[0]
    assert alone["question"] == [{"role": "user", "content": "one"}]
    assert "reference" not in alone


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gsm8k", {"question": "x", "solution": "y"},
         "file.csv:2: the column 'answer' is missing; the format 'gsm8k' expects question, answer "
         "(found: question, solution)"),
        ("gsm8k", {"prompt": "x", "category": "y"},
         "the columns question, answer are missing; the format 'gsm8k' expects question, answer (found: prompt, "
         "category); they are the columns of the format 'beavertails'"),
        ("beavertails", {"prompt": 5, "category": "y"}, "file.csv:2: 'prompt' is a int; expected text"),
        ("beavertails", {"prompt": " ", "category": "y"}, "file.csv:2: 'prompt' is blank; expected text"),
        ("truthfulqa", {"question": "x", "best_answer": "y", "correct_answers": 4, "incorrect_answers": "z"},
         "'correct_answers' is a int; expected texts with ';' between them"),
        ("truthfulqa-mc", {"question": "x", "mc1_targets": {"a": 1, "b": 1}}, "2 options and 2 right ones"),
        ("truthfulqa-mc", {"question": "x", "mc1_targets": {"a": 1}}, "1 options and 1 right ones"),
        ("truthfulqa-mc", {"question": "x", "mc1_targets": "a"}, "'mc1_targets' is not what it should be"),
        ("truthfulqa-mc", {"question": "x", "mc1_targets": {"a": "yes"}}, "'mc1_targets' is not what it should be"),
        ("empathetic-dialogues", dict.fromkeys(FORMATS["empathetic-dialogues"].columns, "x"),
         "file.csv:2: 'utterance_idx' is 'x'; expected the number of the turn"),
        ("empathetic-dialogues", turns("c", " ")[0], "'utterance' is blank"),
    ],
)  # fmt: skip
def test_bad_rows_are_told_plainly(name, value, message) -> None:
    with pytest.raises(DataError) as e:
        converted(name, value)
    assert message in str(e.value)
    assert str(e.value).startswith("file.csv:2: ")
    assert "\n" not in str(e.value)


# name → questions, repeated ones left out, splits
COUNTS: dict[str, tuple[int, int, dict[str, int]]] = {
    "empathetic-dialogues": (2547, 0, {"all": 2547}),
    "dialogsum": (500, 0, {"all": 500}),
    "beavertails": (700, 0, {"all": 700}),
    "harmfulqa": (1938, 22, {"all": 1938}),
    "truthfulqa": (817, 0, {"all": 817}),
    "truthfulqa-mc": (817, 0, {"all": 817}),
    "alpaca-eval": (805, 0, {"all": 805}),
    "xstest": (450, 0, {"safe": 250, "unsafe": 200}),
    "gsm8k": (1319, 0, {"all": 1319}),
}


@needs_real_data
@pytest.mark.parametrize("name", FILES)
def test_real_files_are_read_whole(name) -> None:
    task = published(name)
    total, repeated, splits = COUNTS[name]
    assert (task.total, len(task.items), task.repeated, task.splits()) == (total, total, repeated, splits)
    assert task.dimensions == FORMATS[name].dimensions
    assert all(item.question[-1].role == "user" and item.question[-1].content.strip() for item in task.items)


@needs_real_data
def test_real_conversations_against_a_reading_without_the_package() -> None:
    """Lines are split at commas by hand: the file quotes nothing and writes a comma inside text as _comma_."""
    path = REAL_DATA / FILES["empathetic-dialogues"]
    said: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").split("\n")[1:]:
        if line:
            cells = line.split(",")
            said.setdefault(cells[0], []).append(cells[5].replace("_comma_", ",").strip())
    for item in published("empathetic-dialogues").items:
        conversation, _, turn = item.id.rpartition("#")
        assert [m.content for m in item.question] == said[conversation][: int(turn)]
        assert item.reference == said[conversation][int(turn)]
        assert [m.role for m in item.question] == (["user", "assistant"] * 9)[: int(turn)]
        assert "_comma_" not in str(item)
    lengths = Counter(len(item.question) for item in published("empathetic-dialogues").items)
    assert min(lengths[1], lengths[3]) > 1000, "turns are drawn evenly"


@needs_real_data
def test_real_references_and_labels() -> None:
    summaries = [json.loads(line) for line in (REAL_DATA / FILES["dialogsum"]).read_text().splitlines()]
    for item, row in zip(published("dialogsum").items, summaries, strict=True):
        assert item.extra["references"] == [row[f"summary{i}"].strip() for i in (1, 2, 3)]
        assert item.question[0].content.endswith(row["dialogue"].strip())
        assert item.question[0].content.startswith("Summarise")
    with (REAL_DATA / FILES["xstest"]).open(encoding="utf-8", newline="") as file:
        labels = {row["id"]: row["label"] for row in csv.DictReader(file)}
    assert {item.id: item.extra["label"] for item in published("xstest").items} == labels
    targets = {r["question"]: r["mc1_targets"] for r in json.loads((REAL_DATA / FILES["truthfulqa-mc"]).read_text())}
    letters = Counter(item.extra["right"] for item in published("truthfulqa-mc").items)
    assert letters["A"] < 817 / 3, "the right option does not stand first"
    for item in published("truthfulqa-mc").items:
        right = item.extra["options"]["ABCDEFGHIJKLM".index(item.extra["right"])]
        assert targets[item.question[0].content.split("\n\n")[0]][right] == 1


@needs_real_data
def test_labels_of_xstest_are_those_that_the_types_imply() -> None:
    for item in published("xstest").items:
        row = {"prompt": item.question[0].content, "type": item.extra["type"]}
        assert one("xstest", **row)["label"] == item.extra["label"]


@needs_real_data
def test_a_wrong_format_names_the_right_one() -> None:
    with pytest.raises(DataError, match="they are the columns of the format 'xstest'"):
        read_task(spec_of("gsm8k", file=REAL_DATA / FILES["xstest"]))
    with pytest.raises(DataError, match="they are the columns of the format 'gsm8k'"):
        read_task(spec_of("gsm8k", format="rows", dimensions=["a"]))
