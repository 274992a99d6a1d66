"""The published sets of conversations: EmpatheticDialogues, whose rows are turns, and DialogSum."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aligner.errors import DataError
from aligner.evaluate.cells import has_column, text_of
from aligner.rows import Row
from aligner.types import content_hash

_OF_SEVERAL = re.compile(r"(\D+_\d+)_\d+")


def empathetic_dialogues(rows: Iterable[Row], place: str, seed: int) -> Iterator[Row]:
    """One question of every conversation: its turns up to one of the person who tells, drawn by seed.

    Who speaks first is the user, and the listener the assistant; what the listener then said is the reference. Turns
    that were answered are drawn first. The turn is part of the id, so answers that are stored for another are not
    taken for this one's.

    Raises:
        DataError: a cell is no text, or the number of a turn is none.
    """
    conversations: dict[str, list[tuple[int, Row]]] = {}
    for row in rows:
        where = f"{place}:{row.line}"
        index = row.value["utterance_idx"]
        if not str(index).strip().isdecimal():
            raise DataError(f"{where}: 'utterance_idx' is {index!r}; expected the number of the turn")
        conversations.setdefault(text_of(row.value, "conv_id", where), []).append((int(index), row))
    for id_, numbered in conversations.items():
        turns = [row for _, row in sorted(numbered, key=lambda turn: turn[0])]
        first = turns[0]
        asked = _told_turns(turns)
        last = asked[int(content_hash(str(seed), id_), 16) % len(asked)]
        said = [_said(row, place) for row in turns[: last + 2]]
        chat = [
            {"role": "user" if _same_speaker(row, first) else "assistant", "content": text}
            for row, text in zip(turns[: last + 1], said, strict=False)
        ]
        value: dict[str, Any] = {
            "id": f"{id_}#{last + 1}",
            "question": chat,
            "emotion": first.value["context"],
            "situation": str(first.value["prompt"]).replace("_comma_", ",").strip(),
        }
        if len(said) > last + 1:
            value["reference"] = said[-1]
        yield Row(line=first.line, value=value)


def _told_turns(turns: Sequence[Row]) -> list[int]:
    """The turns of the person who tells that were answered; the last one where none was."""
    told = [i for i, row in enumerate(turns) if _same_speaker(row, turns[0])]
    answered = [i for i in told if i + 1 < len(turns) and not _same_speaker(turns[i + 1], turns[0])]
    return answered or told[-1:]


def _same_speaker(one: Row, other: Row) -> bool:
    return str(one.value["speaker_idx"]) == str(other.value["speaker_idx"])


def _said(row: Row, place: str) -> str:
    return text_of(row.value, "utterance", f"{place}:{row.line}").replace("_comma_", ",")


def dialogsum(rows: Iterable[Row], place: str, _seed: int) -> Iterator[Row]:
    """One question of every dialogue. The first summary is the reference, and `references` has all of them.

    The test file has three summaries in a row's columns; on the Hub the same dialogue stands in three rows.

    Raises:
        DataError: a dialogue or a summary is no text.
    """
    pending: Row | None = None
    for row in rows:
        where = f"{place}:{row.line}"
        dialogue = text_of(row.value, "dialogue", where)
        columns = [name for name in row.value if name.startswith("summary") and has_column(row.value, name)]
        summaries = [text_of(row.value, name, where) for name in columns]
        if pending is not None and pending.value["question"] == dialogue:
            pending.value["references"] += summaries
            # Its rows are test_0_1 to test_0_3; in the file, and so in stored answers, the dialogue is test_0.
            if stem := _OF_SEVERAL.fullmatch(pending.value["id"]):
                pending.value["id"] = stem[1]
            continue
        if pending is not None:
            yield pending
        topics = [name for name in row.value if name.startswith("topic") and has_column(row.value, name)]
        name = next((row.value[column] for column in ("fname", "id") if has_column(row.value, column)), None)
        id_ = content_hash(dialogue) if name is None else str(name)
        value: dict[str, Any] = {"id": id_, "question": dialogue, "references": summaries}
        if summaries:
            value["reference"] = summaries[0]
        if topics:
            value["topic"] = row.value[topics[0]]
        pending = Row(line=row.line, value=value)
    if pending is not None:
        yield pending
