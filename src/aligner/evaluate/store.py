"""Store: the rows of one step in a JSONL file, appended as each is finished and found again by their question."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from aligner.errors import RunError
from aligner.evaluate.tasks import Suite
from aligner.rows import JsonlWriter, dumps, storage_errors


class Store:
    """Rows with a task, an id and an `error`, which is null where all went well. In memory is where each row begins.

    Opening a file that is there drops its failed rows, so that a resumed run asks for them again. `failed` has what
    went wrong since then, by place in the suite.

    Raises:
        RunError: a row of the file is damaged, or belongs to no question of the suite.
        StorageError: the file cannot be written.
    """

    def __init__(self, path: Path, suite: Suite) -> None:
        self.path = path
        self.failed: dict[int, str] = {}
        self._suite = suite
        self._begins = array("q", [-1]) * len(suite)
        self._reader: IO[bytes] | None = None
        self._writer: JsonlWriter | None = None
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        JsonlWriter(path).close()  # mends a torn last row
        self._read_all()

    def __contains__(self, place: int) -> bool:
        """Whether the row is there and did not fail."""
        return self._begins[place] >= 0 and place not in self.failed

    def missing(self) -> list[int]:
        """The places without a row."""
        return [place for place, begin in enumerate(self._begins) if begin < 0]

    def whole(self) -> int:
        """How many rows are there and did not fail."""
        return len(self._begins) - self._begins.count(-1) - len(self.failed)

    def write(self, place: int, row: Mapping[str, Any], error: str | None = None) -> None:
        """Append the row of a question; `error` marks it as failed."""
        item = self._suite.items[place]
        begin = self.path.stat().st_size
        self._writer = self._writer or JsonlWriter(self.path)
        self._writer.write({"id": item.id, "task": item.task, **row, "error": error})
        self._begins[place] = begin
        if error is not None:
            self.failed[place] = error

    def get(self, place: int) -> dict[str, Any]:
        """The row of a question that is there."""
        reader = self._open()
        reader.seek(self._begins[place])
        row: dict[str, Any] = json.loads(reader.readline())
        return row

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """All rows with their places, failed ones too, in the file's order; no other reading may go on meanwhile."""
        reader = self._open()
        for begin, place in sorted((b, p) for p, b in enumerate(self._begins) if b >= 0):
            reader.seek(begin)
            yield place, json.loads(reader.readline())

    def close(self) -> None:
        """Let go of the file; reading or writing opens it again."""
        for file in (self._writer, self._reader):
            if file is not None:
                file.close()
        self._writer = self._reader = None

    def _open(self) -> IO[bytes]:
        if self._reader is None:
            self._reader = self.path.open("rb")
        return self._reader

    def _read_all(self) -> None:
        dropped = False
        begin = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                place, failed = self._known(number, line)
                if failed:
                    dropped = True
                else:
                    self._begins[place] = begin
                begin += len(line)
        if dropped:
            self._drop_failed()

    def _known(self, number: int, line: bytes) -> tuple[int, bool]:
        again = "start anew with --overwrite"
        try:
            row = json.loads(line)
            place = self._suite.place(row["task"], row["id"])
            failed = row["error"] is not None
        except (ValueError, KeyError, TypeError):
            raise RunError(f"{self.path}:{number}: the row is damaged; {again}") from None
        if place is None:
            raise RunError(f"{self.path}:{number}: the row belongs to no question of this run; {again}")
        return place, failed

    def _drop_failed(self) -> None:
        """Write the file again without its failed rows, whole or not at all."""
        temporary = self.path.with_name(f".{self.path.name}.part")
        with storage_errors(self.path):
            try:
                with temporary.open("wb") as file:
                    for place, row in self.rows():
                        begin = file.tell()
                        file.write((dumps(row) + "\n").encode("utf-8"))
                        self._begins[place] = begin
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)
        self.close()
