"""Rows as they stand in an original: JSON, JSONL, CSV or Parquet, a directory of such files, or a set of the Hub."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from aligner.config import expand
from aligner.errors import DataError
from aligner.evaluate.config import TaskSpec
from aligner.evaluate.formats import FORMATS
from aligner.evaluate.hub import downloaded, hub_split, loaded, told
from aligner.rows import Row, file_hash, open_text, read_rows

_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_PACKED = (".gz", ".xz")


def place_of(spec: TaskSpec) -> str:
    """Where a task's questions come from, for errors."""
    return str(spec.hub) if spec.file is None else str(expand(spec.file))


def read_originals(spec: TaskSpec) -> Iterator[Row]:
    """The rows of a task's file, directory or set of the Hub. In a directory the files follow each other by name.

    Raises:
        DataError: it is not there, cannot be read, or is of no form that is known; names file and line.
    """
    if spec.file is None:
        return _hub_rows(spec)
    path = expand(spec.file)
    if not path.is_dir():
        return _file_rows(path, spec)
    if files := _files(path):
        return chain.from_iterable(_file_rows(file, spec) for file in files)
    if _is_saved(path):
        return _numbered(str(path), _saved(path, spec))
    raise DataError(f"{path}: the directory holds no {', '.join(_SUFFIXES)} file; check the path")


def content_of(place: Path) -> str:
    """SHA-256 of the file or directory that a task is read from; environment variables are filled in.

    Raises:
        DataError: it cannot be read.
    """
    path = expand(place)
    if not path.is_dir():
        return file_hash(path)
    digest = hashlib.sha256()
    for file in _files(path) or sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path)}:{file_hash(file)}\n".encode())
    return digest.hexdigest()


def _files(directory: Path) -> list[Path]:
    if _is_saved(directory):
        return []
    return sorted(p for p in directory.iterdir() if p.is_file() and _kind(p) and not p.name.startswith("."))


def _kind(path: Path) -> str:
    """The suffix that says what a file is, "" where it is none that is known."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in _SUFFIXES else ""


def _file_rows(path: Path, spec: TaskSpec) -> Iterator[Row]:
    kind = _kind(path)
    if kind == ".csv":
        return _csv_rows(path, quoted=spec.format == "rows" or FORMATS[spec.format].quoted)
    if kind == ".parquet":
        return _parquet_rows(path)
    if spec.format == "harmfulqa" and kind == ".json":
        return _topic_rows(path)
    return read_rows(path)


def _csv_rows(path: Path, *, quoted: bool) -> Iterator[Row]:
    """Rows by the names of the header. The line is the one on which a row starts."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    begin = 1
    try:
        with open_text(path) as file:
            if isinstance(file, io.TextIOWrapper):
                file.reconfigure(newline="")  # line ends inside cells are the reader's to see
            reader = csv.reader(file, quoting=quoting, strict=quoted)
            header = next(reader, [])
            if len(set(header)) < len(header):
                raise DataError(f"{path}:1: two columns have the same name; every column needs its own")
            begin, found = reader.line_num + 1, False
            for cells in reader:
                if cells:
                    if len(cells) != len(header):
                        raise DataError(f"{path}:{begin}: {len(cells)} cells where the header has {len(header)} "
                                        "columns; check the commas and quotation marks")  # fmt: skip
                    found = True
                    yield Row(line=begin, value=dict(zip(header, cells, strict=True)))
                begin = reader.line_num + 1
    except csv.Error as e:
        raise DataError(f"{path}:{begin}: not valid CSV ({e}); check the quotation marks") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text; save the file as UTF-8") from None
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as e:
        raise DataError(f"{path}: cannot be read, or is damaged ({e}); copy it again") from None
    if not found:
        raise DataError(f"{path}: the file holds no rows; expected a line of column names and rows below it")


def _topic_rows(path: Path) -> Iterator[Row]:
    """HarmfulQA's own file, {topic: {subtopic: [question, …]}}, as rows; a list or lines of objects as they are."""
    try:
        with open_text(path) as file:
            topics = json.load(file)
    except (ValueError, RecursionError, EOFError, zlib.error, lzma.LZMAError, OSError):
        topics = None  # read_rows says what is wrong
    if not isinstance(topics, dict) or not all(isinstance(found, dict) for found in topics.values()):
        yield from read_rows(path)
        return
    number = 0
    for topic, subtopics in topics.items():
        for subtopic, questions in subtopics.items():
            if not isinstance(questions, list):
                raise DataError(f"{path}: '{topic}', '{subtopic}' is a {type(questions).__name__}; expected a list")
            for question in questions:
                number += 1
                yield Row(line=number, value={"topic": topic, "subtopic": subtopic, "question": question})


def _parquet_rows(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path")
    from datasets import load_dataset

    def rows() -> Iterator[Any]:
        # Streamed: nothing is copied into a cache.
        yield from load_dataset("parquet", data_files=str(path), split="train", streaming=True)

    return _numbered(str(path), rows)


def _hub_rows(spec: TaskSpec) -> Iterator[Row]:
    where = str(spec.hub)
    if where.startswith(("/", ".", "~", "$")) or "$" in where:
        where = str(expand(where, "hub"))
    if _is_saved(Path(where)):
        return _numbered(where, _saved(Path(where), spec))
    if spec.hub_file is not None:
        return _file_rows(downloaded(spec), spec)
    return _numbered(where, lambda: loaded(where, spec))


def _is_saved(path: Path) -> bool:
    """Whether `datasets` saved something there."""
    return (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()


def _saved(path: Path, spec: TaskSpec) -> Callable[[], Iterator[Any]]:
    def rows() -> Iterator[Any]:
        from datasets import DatasetDict, load_from_disk

        found = load_from_disk(str(path))
        yield from found[hub_split(spec)] if isinstance(found, DatasetDict) else found

    return rows


def _numbered(where: str, rows: Callable[[], Iterator[Any]]) -> Iterator[Row]:
    """The rows that `rows()` gives; whatever the library fails with is told as ours."""
    number = 0
    try:
        for number, value in enumerate(rows(), 1):
            # Dates and bytes, which JSON cannot hold, become text: a run writes its questions.
            yield Row(line=number, value=json.loads(json.dumps(value, default=str)))
    except DataError:
        raise
    except Exception as e:
        raise DataError(told(where, e)) from e
    if not number:
        raise DataError(f"{where}: the data set holds no rows; choose another split ('hub_split')")
