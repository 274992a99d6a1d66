"""Reading gives back what was written, in whatever form and however the file is cut into chunks."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner import rows
from aligner.errors import DataError
from aligner.rows import JsonlWriter, dumps, read_rows

texts = st.text(st.characters(exclude_categories=()), max_size=12).map(
    # Two lone surrogates in a row are one character in JSON, so no JSON file can hold them apart.
    lambda s: json.loads(json.dumps(s))
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
)
objects = st.lists(st.dictionaries(texts, values, max_size=4), min_size=1, max_size=6)
blanks = st.text(" \t\r\n", max_size=6)


def read(text: str, chunk: int) -> list[tuple[int, dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        path.write_bytes(text.encode())
        with mock.patch.object(rows, "_CHUNK", chunk):
            return [(row.line, row.value) for row in read_rows(path)]


def line_at(text: str, place: int) -> int:
    return text[:place].replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1


@settings(max_examples=300, deadline=None)
@given(objects, st.integers(1, 64), st.booleans(), st.sampled_from([None, 0, 1, 4]), st.sampled_from(["\n", "\r\n"]))
def test_list(items: list[dict[str, Any]], chunk: int, ascii_only: bool, indent: int | None, end: str) -> None:
    parts = [dumps(i, indent) if not ascii_only else json.dumps(i, ensure_ascii=True, indent=indent) for i in items]
    comma = ", " if indent is None else ",\n"
    text = ("[" + comma.join(parts) + "]\n").replace("\n", end)
    expected, place = [], 1
    for part, item in zip(parts, items, strict=True):
        expected.append((line_at(text, place), item))
        place += len((part + comma).replace("\n", end))
    assert read(text, chunk) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(blanks, st.dictionaries(texts, values, max_size=3), blanks), max_size=6), st.integers(1, 64))
def test_list_with_any_white_space(items: list[tuple[str, dict[str, Any], str]], chunk: int) -> None:
    text, expected = "[", []
    for i, (before, item, after) in enumerate(items):
        text += ("," if i else "") + before
        # A "\n" that follows a "\r" ends no further line.
        expected.append((line_at(text, len(text)), item))
        text += dumps(item) + after
    text += "]"
    if items:
        assert read(text, chunk) == expected


@settings(max_examples=300, deadline=None)
@given(objects, st.integers(1, 64), st.lists(st.integers(0, 3), min_size=6, max_size=6), st.booleans())
def test_lines(items: list[dict[str, Any]], chunk: int, gaps: list[int], last_newline: bool) -> None:
    text, expected = "", []
    for item, gap in zip(items, gaps, strict=False):
        text += "\n" * gap
        expected.append((text.count("\n") + 1, item))
        text += dumps(item) + "\n"
    assert read(text if last_newline else text.rstrip("\n"), chunk) == expected


@settings(max_examples=100, deadline=None)
@given(objects)
def test_writer(items: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        for item in items:
            with JsonlWriter(path) as writer:
                writer.write(item)
        assert [row.value for row in read_rows(path)] == items
        assert writer.rows == len(items)


@settings(max_examples=300, deadline=None)
@given(objects, st.integers(1, 64), st.sampled_from([None, 1]), st.data())
def test_damage_never_goes_unseen(
    items: list[dict[str, Any]], chunk: int, indent: int | None, data: st.DataObject
) -> None:
    """A list that is cut, or has lost a character, is an error unless the standard parser still takes it."""
    text = "[" + ", ".join(dumps(item, indent) for item in items) + "]"
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = data.draw(st.sampled_from([text[:place], text[:place] + text[place + 1 :]]))
    try:
        expected = json.loads(damaged)
    except ValueError:
        expected = None
    if damaged.lstrip().startswith("{"):
        return  # without its bracket it is no list any more
    if isinstance(expected, list) and expected and all(isinstance(v, dict) for v in expected):
        assert [value for _, value in read(damaged, chunk)] == expected
    else:
        with pytest.raises(DataError):
            read(damaged, chunk)
