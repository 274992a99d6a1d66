"""Where questions come from: JSON, CSV and Parquet files, directories, and sets of the Hub as `datasets` loads them."""

from __future__ import annotations

import gzip
import lzma
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aligner.config import expand
from aligner.errors import DataError
from aligner.evaluate.config import TaskSpec
from aligner.evaluate.originals import content_of
from aligner.evaluate.tasks import Task, read_task
from aligner.types import content_hash
from tests.training import write_rows

GSM = [{"question": f"{i} + {i}?", "answer": f"It is {2 * i}.\n#### {2 * i}"} for i in range(5)]


def read(path: Path, format_: str = "gsm8k", **changes: Any) -> Task:
    return read_task(TaskSpec.from_dict({"name": "t", "format": format_, "file": path} | changes))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch) -> None:
    """`datasets` keeps what it loads out of the home directory."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))


def saved(path: Path, form: str, count: int = 5) -> Path:
    from datasets import Dataset

    data = Dataset.from_list(GSM[:count])
    if form == "parquet":
        data.to_parquet(str(path))
    elif form == "csv":
        data.to_csv(str(path))
    else:
        write_rows(path, GSM)
    return path


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_one_set_in_every_form_of_file(tmp_path, form) -> None:
    task = read(saved(tmp_path / f"t.{form}", form))
    assert [item.id for item in task.items] == [content_hash(row["question"]) for row in GSM]
    assert [item.extra["number"] for item in task.items] == ["0", "2", "4", "6", "8"]
    assert task.items[1].question[0].content.startswith("1 + 1?\n\nWork it out")


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_packed_csv(tmp_path, suffix, pack) -> None:
    path = tmp_path / f"x.csv.{suffix}"
    path.write_bytes(pack('﻿prompt,type\r\n"How, and why\nnot?",homonyms\r\n\r\nWhat?,contrast_x\r\n'.encode()))
    task = read(path, "xstest")
    assert [item.question[0].content for item in task.items] == ["How, and why\nnot?", "What?"]
    assert task.splits() == {"safe": 1, "unsafe": 1}
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be read, or is damaged"):
        read(path, "xstest")


def test_ones_own_questions_as_csv(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("id,question,split\na,One?,x\nb,Two?,\n")
    task = read(tmp_path / "t.csv", "rows", dimensions=["helpful"])
    assert [(item.id, item.split) for item in task.items] == [("a", "x"), ("b", "all")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,type\na,b,c\n", ":2: 3 cells where the header has 2 columns"),
        ('prompt,type\na,b\n"c,d\n', ":3: not valid CSV"),
        ("prompt,prompt\na,b\n", ":1: two columns have the same name"),
        ("prompt,type\n", ": the file holds no rows"),
        ("", ": the file holds no rows"),
        ("prompt,kind\na,b\n", ":2: the column 'type' is missing; the format 'xstest' expects prompt, type (found: "
                               "prompt, kind)"),
        ('id,prompt,type\n1,a,b\n1,"c\nd",b\n', ":3: the id '1' is also that of line 2"),
    ],
)  # fmt: skip
def test_bad_csv_is_named_by_file_and_line(tmp_path, text, message) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError) as e:
        read(path, "xstest")
    assert str(e.value).startswith(f"{path}{message}")
    assert "\n" not in str(e.value)


def test_csv_that_is_not_text(tmp_path) -> None:
    (tmp_path / "t.csv").write_bytes(b"prompt,type\n\xff\xfe,x\n")
    with pytest.raises(DataError, match="not UTF-8 text"):
        read(tmp_path / "t.csv", "xstest")
    (tmp_path / "t.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be loaded"):
        read(tmp_path / "t.parquet")
    for name in ("none.csv", "none.parquet", "none.json"):
        with pytest.raises(DataError, match="no such file"):
            read(tmp_path / name)


def test_a_directory_of_files(tmp_path) -> None:
    write_rows(tmp_path / "b.jsonl", GSM[:2])
    write_rows(tmp_path / "a.jsonl", GSM[2:])
    (tmp_path / "README.md").write_text("not read")
    spec = TaskSpec.from_dict({"name": "t", "format": "gsm8k", "file": tmp_path})
    assert [item.extra["number"] for item in read_task(spec).items] == ["4", "6", "8", "0", "2"]
    before = content_of(tmp_path)
    (tmp_path / "README.md").write_text("changed")
    assert content_of(tmp_path) == before
    write_rows(tmp_path / "b.jsonl", GSM[:1])
    assert content_of(tmp_path) != before
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the directory holds no"):
        read(tmp_path / "empty")


def test_harmfulqa_by_topic_or_as_rows(tmp_path) -> None:
    path = tmp_path / "h.json"
    path.write_text('{"Arts": {"Film": ["One?", "Two?"], "Music": ["One?"]}}')
    task = read(path, "harmfulqa")
    assert [(i.question[0].content, i.extra["subtopic"]) for i in task.items] == [("One?", "Film"), ("Two?", "Film")]
    assert (task.total, task.repeated) == (2, 1), "a question that stands twice is asked once, and counted"
    write_rows(path, [{"topic": "Arts", "subtopic": "Film", "question": "One?"}])
    assert len(read(path, "harmfulqa").items) == 1
    path.write_text('{"Arts": {"Film": "One?"}}')
    with pytest.raises(DataError, match="'Arts', 'Film' is a str; expected a list"):
        read(path, "harmfulqa")
    path.write_text('{"Arts": {"Film": ["One?"')
    with pytest.raises(DataError, match="not valid JSON"):
        read(path, "harmfulqa")


def test_environment_variables_in_paths(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ALIGNER_TEST_PLACE", str(tmp_path))
    write_rows(tmp_path / "t.jsonl", GSM)
    assert len(read(Path("$ALIGNER_TEST_PLACE/t.jsonl")).items) == 5
    monkeypatch.delenv("ALIGNER_TEST_PLACE")
    with pytest.raises(DataError, match="uses an environment variable that is not set"):
        read(Path("$ALIGNER_TEST_PLACE/t.jsonl"))
    assert expand("~/x") == Path.home() / "x"


def hub(place: Path | str, **changes: Any) -> Task:
    return read_task(TaskSpec.from_dict({"name": "t", "format": "gsm8k", "hub": str(place)} | changes))


def test_a_set_that_datasets_saved(tmp_path) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({"train": Dataset.from_list(GSM[:1]), "test": Dataset.from_list(GSM)}).save_to_disk(tmp_path / "dict")
    assert hub(tmp_path / "dict").total == 5, "the format's own split"
    assert hub(tmp_path / "dict", hub_split="train").total == 1
    with pytest.raises(DataError, match=r"cannot be loaded \(KeyError.*'hub_split'"):
        hub(tmp_path / "dict", hub_split="dev")
    Dataset.from_list(GSM).save_to_disk(tmp_path / "one")
    assert hub(tmp_path / "one").total == 5
    assert read(tmp_path / "one").total == 5
    before = content_of(tmp_path / "one")
    (tmp_path / "one" / "state.json").write_text("{}")
    assert content_of(tmp_path / "one") != before


def test_a_set_that_datasets_loads(tmp_path) -> None:
    """A directory laid out as a set of the Hub, with two configurations."""
    place = tmp_path / "org" / "name"
    (place / "main").mkdir(parents=True)
    (place / "socratic").mkdir()
    saved(place / "main" / "test-00000-of-00001.parquet", "parquet")
    saved(place / "socratic" / "test.parquet", "parquet", count=2)
    (place / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files: main/*.parquet\n"
        "- config_name: socratic\n  data_files: socratic/*.parquet\n---\n"
    )
    assert hub(place, hub_config="main", hub_split="train").total == 5
    assert hub(place, hub_config="socratic", hub_split="train").total == 2
    with pytest.raises(DataError, match="choose another 'hub_config'"):
        hub(place, hub_config="none")
    with pytest.raises(DataError, match=r"the columns prompt, category are missing.*columns of the format 'gsm8k'"):
        hub(place, hub_config="main", hub_split="train", format="beavertails")


def test_columns_that_json_cannot_hold_become_text(tmp_path) -> None:
    from datasets import Dataset

    data = Dataset.from_dict({"id": ["a"], "question": ["One?"], "when": [datetime(2024, 5, 1, tzinfo=UTC)]})
    data.to_parquet(str(tmp_path / "t.parquet"))
    (item,) = read(tmp_path / "t.parquet", "rows", dimensions=["helpful"]).items
    assert str(item.extra["when"]).startswith("2024-05-01")


def test_what_reaches_the_library(monkeypatch) -> None:
    import datasets

    asked: list[Any] = []

    def load(*args: Any, **options: Any) -> list[dict[str, str]]:
        asked.append((args, options))
        return GSM

    monkeypatch.setattr(datasets, "load_dataset", load)
    hub("org/name", hub_config="main", revision="abc")
    hub("org/name", hub_split="dev", format="gsm8k")
    assert asked[0] == (("org/name",), {"name": "main", "split": "test", "revision": "abc"})
    assert asked[1] == (("org/name",), {"name": None, "split": "dev", "revision": None})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: [])
    with pytest.raises(DataError, match="org/name: the data set holds no rows"):
        hub("org/name")
