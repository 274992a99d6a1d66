"""Rows of token ids, and the Arrow file that training maps into memory instead of holding them there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner.errors import DataError
from aligner.train.edited import IGNORED, mark

_TOGETHER = 1000  # rows handed to Arrow at once


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRow:
    """Ids of prompt and completion together; `prompt_length` says where the completion starts, `edited` which of its
    tokens weigh more, `left_out` how many old turns the prompt had no room for."""

    ids: tuple[int, ...]
    prompt_length: int
    edited: tuple[bool, ...] = ()
    left_out: int = 0

    def labels(self) -> list[int]:
        """What the loss is taken on, token by token."""
        completion = self.ids[self.prompt_length :]
        if self.edited:
            completion = tuple(mark(i) if e else i for i, e in zip(completion, self.edited, strict=True))
        return [IGNORED] * self.prompt_length + [*completion]


class RowFile:
    """Appends rows to an Arrow file with the columns input_ids, labels and length.

    Args:
        path: the file.
        write: of several processes one writes; the others count, and then map what it wrote.
    """

    def __init__(self, path: Path, write: bool) -> None:
        self.rows = 0
        self._path = path
        self._buffer: list[EncodedRow] = []
        self._writer: Any = None
        if not write:
            return
        from datasets import Features, Sequence, Value
        from datasets.arrow_writer import ArrowWriter

        ids = Sequence(Value("int32"))
        features = Features({"input_ids": ids, "labels": ids, "length": Value("int32")})
        self._writer = ArrowWriter(path=str(path), features=features)

    def write(self, row: EncodedRow) -> None:
        self.rows += 1
        if self._writer is not None:
            self._buffer.append(row)
            if len(self._buffer) >= _TOGETHER:
                self._flush()

    def close(self) -> Any:
        """The rows as a dataset; None where there are none."""
        from datasets import Dataset

        if self._writer is not None:
            self._flush()
            if self.rows:
                self._writer.finalize()
            else:
                self._writer.close()
        return Dataset.from_file(str(self._path)) if self.rows else None

    def _flush(self) -> None:
        if self._buffer:
            # Labels in place of a mask: TRL would make them of one row by row, and write the file once more.
            self._writer.write_batch(
                {
                    "input_ids": [list(row.ids) for row in self._buffer],
                    "labels": [row.labels() for row in self._buffer],
                    "length": [len(row.ids) for row in self._buffer],
                }
            )
            self._buffer.clear()


@dataclass(slots=True, kw_only=True)
class TooLong:
    """Counts rows that do not fit and, while none has fitted, how long the longest of them is."""

    setting: str
    max_length: int
    rows: int = 0
    longest: int = 0

    def none_fits(self) -> DataError:
        """The error to raise where nothing else is left; it names the length to set."""
        return DataError(
            f"{self.setting}: all {self.rows} training rows are longer than max_length ({self.max_length} tokens); "
            f"the longest needs {self.longest}: set max_length to that"
        )
