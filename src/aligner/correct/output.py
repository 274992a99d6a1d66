"""Output: the file of corrected rows. One that was stopped is gone on with, and rows that failed are done again."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice, zip_longest
from pathlib import Path
from typing import IO, Any, Self

from aligner.config import Config
from aligner.errors import ConfigError, RunError
from aligner.rows import JsonlWriter, read_rows, storage_errors
from aligner.runs import Existing, changed_settings, locked

_AGAIN = "choose another --output or pass --overwrite"


def has_failed(row: Mapping[str, Any]) -> bool:
    """Whether asking for a row again may help: the corrector failed, or what ranks its corrections."""
    kept = row.get("kept_because")
    return kept in ("error", "cancelled") or (kept == "unscored" and row.get("error") is not None)


def settings_path(output: Path) -> Path:
    """Where it stands with which settings the rows of an output were made."""
    return output.with_name(f"{output.name}.config.yaml")


@contextmanager
def claimed(output: Path, existing: Existing) -> Iterator[None]:
    """Keep other processes from an output while this one works on it.

    Raises:
        RunError: another process works on it, it is no ordinary file, or it is there and to be refused.
        StorageError: its directory cannot be written.
    """
    if output.exists() and not output.is_file():
        raise RunError(f"{output}: is no ordinary file; choose another --output")
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{output}: another process writes it; wait for it or choose another --output"
    with locked(output.with_name(f".{output.name}.lock"), busy):
        if output.exists() and existing == "refuse":
            raise RunError(
                f"{output}: exists already; pass --resume to go on, --overwrite to start anew, or another path"
            )
        yield


def check_same(output: Path, source: Path, rows: int, config: Config, free: Collection[str]) -> None:
    """Refuse to go on with an output that was made from another input of so many rows, or by other settings than these;
    those in `free` do not count.

    Raises:
        RunError: it was, or it is no output at all.
    """
    if not _check_belongs(output, source, rows):
        return
    saved = settings_path(output)
    try:
        changed = changed_settings(saved, config)
    except ConfigError as e:
        raise RunError(f"{e}; its rows may be of another corrector: restore it, or {_AGAIN}") from None
    if changed := [name for name in changed if name.split(".")[0] not in free]:
        raise RunError(
            f"{output}: was started with other settings (differs in: {', '.join(changed)}; see {saved.name}); "
            f"resume with the same ones, or {_AGAIN}"
        )


class Output:
    """Rows in the order of the input, each on disk before the next; one that failed before is replaced in its place.

    That takes a second file, which is put in the place of the first when the last failed row is done, or on closing.
    What a killed process left of it is put together with the first one on opening.

    Args:
        path: the file. Its settings stand beside it.
        config: the settings.
        anew: begin with no rows, whatever is there.

    Raises:
        StorageError: it cannot be written.
    """

    def __init__(self, path: Path, config: Config, *, anew: bool) -> None:
        self.path = path
        self._place = path.resolve()  # a link stays one
        self._part = self._place.with_name(f".{self._place.name}.part")
        self._old: IO[bytes] | None = None  # the first file, while there is a second one, read as far as that reaches
        self._done = 0  # the second one's rows
        if anew:
            # The rows go first: beside the settings of others they would mislead.
            with storage_errors(path):
                self._place.unlink(missing_ok=True)
                self._part.unlink(missing_ok=True)
        config.save(settings_path(path))
        with JsonlWriter(path) as writer:  # mends a torn last row
            self.rows = writer.rows
        if self._part.exists():
            self._begin_part()
            self._finish_part()
        with path.open("rb") as lines:
            self.failed = {i for i, line in enumerate(lines) if has_failed(json.loads(line))}
        if self.failed:
            self._begin_part()
        else:
            self._writer = JsonlWriter(path)

    def missing(self, i: int) -> bool:
        """Whether a row is to be done: it is not there, or it failed."""
        return i >= self.rows or i in self.failed

    def write(self, i: int, row: Mapping[str, Any]) -> None:
        """A row that was missing; they come in order."""
        if self._old is not None and i < self.rows:
            self._copy(self._old, i - self._done)
            next(self._old)  # the failed one
            self._done += 1
        elif self._old is not None:
            self._finish_part()
            self._writer = JsonlWriter(self.path)
        self._writer.write(row)

    def close(self) -> None:
        if self._old is not None:
            self._finish_part()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin_part(self) -> None:
        self._writer = JsonlWriter(self._part)
        self._old, self._done = self._place.open("rb"), self._writer.rows
        for _ in islice(self._old, self._done):
            pass

    def _copy(self, old: IO[bytes], rows: int | None = None) -> None:
        for line in islice(old, rows):
            self._writer.append(line)
            self._done += 1

    def _finish_part(self) -> None:
        old, self._old = self._old, None
        assert old is not None
        with old, self._writer:
            self._copy(old)
        with storage_errors(self.path):
            with self._part.open("rb+") as file:
                os.fsync(file.fileno())
            self._part.replace(self._place)


def _check_belongs(output: Path, source: Path, rows: int) -> int:
    """How many rows are there.

    Raises:
        RunError: they are of another input, or of no output of ours.
    """
    done = 0
    with output.open("rb") as lines:
        for line, row in zip_longest(lines, read_rows(source)):
            if line is None:
                break
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if value is None and not line.endswith(b"\n"):
                if not b'{"'.startswith(line[:2]):
                    raise RunError(f"{output}:{done + 1}: is no row of corrections; {_AGAIN}")
                break  # a row that a crash tore; it is cut off and done again
            done += 1
            if row is None:
                raise RunError(
                    f"{output}: has more rows than the input ({rows}); they do not belong together, {_AGAIN}"
                )
            if not isinstance(value, dict) or any(value.get(k) != row.value.get(k) for k in ("question", "answer")):
                raise RunError(f"{output}:{done}: is not the correction of {source}:{row.line}; {_AGAIN}")
    return done
