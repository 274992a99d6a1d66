"""Triplets from files in the official format, and the split into training and held-out questions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from aligner.errors import DataError
from aligner.rows import Row, read_rows
from aligner.types import Triplet, as_chat, content_hash

_FIELDS = ("question", "answer", "correction")


def read_triplets(*paths: str | Path) -> Iterator[Triplet]:
    """Yield the triplets of JSON lists or JSONL files (plain, .gz or .xz), one by one.

    A row is an object with question (text, or a list of messages), answer and correction; source and id are optional:
    without them the source is the file's name and the id a hash of the texts. Other fields are passed over.

    Raises:
        DataError: with file and line, a file that cannot be read or a row that is no triplet.
    """
    for path in paths:
        for row in read_rows(path):
            yield to_triplet(path, row)


def to_triplet(path: str | Path, row: Row) -> Triplet:
    """One row of a file as a triplet.

    Raises:
        DataError: a field is missing or of the wrong kind.
    """
    where, value = f"{path}:{row.line}", row.value
    for name in _FIELDS:
        if name not in value:
            raise DataError(f"{where}: the field '{name}' is missing (found: {', '.join(value) or 'none'}); "
                            f"expected {', '.join(_FIELDS)}")  # fmt: skip
    question = value["question"]
    if isinstance(question, list):
        try:
            question = as_chat(question)
        except DataError as e:
            raise DataError(f"{where}: in 'question', {e}") from None
    elif not isinstance(question, str):
        raise DataError(f"{where}: 'question' is a {type(question).__name__}; expected text or a list of messages")
    for name in ("answer", "correction"):
        if not isinstance(value[name], str):
            raise DataError(f"{where}: '{name}' is a {type(value[name]).__name__}; expected text")
    triplet = Triplet(question=question, answer=value["answer"], correction=value["correction"])
    given = value.get("id")
    return Triplet(
        question=question,
        answer=triplet.answer,
        correction=triplet.correction,
        source=str(value.get("source") or source_name(path)),
        id=str(given) if given is not None else content_hash(triplet.question_key, triplet.answer, triplet.correction),
    )


def source_name(path: str | Path) -> str:
    """A file's name without directories and endings."""
    return Path(path).name.split(".")[0]


def is_held_out(triplet: Triplet, share: float, seed: int) -> bool:
    """Whether a triplet belongs to the held-out split.

    All rows of one question fall on the same side, so that no held-out question is seen in training; rows without a
    question (edits of a sentence) are split by their answer. The choice depends on the text and the seed alone, so it
    is the same whatever the order of the files and however many there are.
    """
    key = triplet.question_key or triplet.answer
    digest = hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
