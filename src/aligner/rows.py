"""Files of rows: JSON lists and JSONL, plain, .gz or .xz, read as streams and written whole or not at all."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, Self

from aligner.errors import AlignerError, DataError, StorageError

_CHUNK = 1 << 20
_SPACE = " \t\r\n"
_BLANK = re.compile(f"[{_SPACE}]*")
_DECODER = json.JSONDecoder()
# A fault closer than this to the end of what has been read may only mean that a literal or an escape is cut there.
_LONGEST_TOKEN = len("-Infinity")
# No space left, over quota or the process's file size limit; a place that is closed to writing; or no such place.
_REFUSED = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
}
_EXPECTED = "expected one JSON object per line, or one JSON list of objects"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One object of a file and the line it starts on (from 1)."""

    line: int
    value: dict[str, Any]


def open_text(path: Path) -> IO[str]:
    """Open a UTF-8 text file for reading, through gzip or xz when its name ends so; a byte order mark is dropped.

    Raises:
        DataError: the file is not there or is a directory.
    """
    return io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig")


def _open_bytes(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".gz":
            return gzip.open(path, "rb")
        if path.suffix.lower() == ".xz":
            return lzma.open(path, "rb")
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e}); give a JSON or JSONL file") from None


def read_rows(path: str | Path) -> Iterator[Row]:
    """Yield the objects of a JSON list or a JSONL file one by one; only a chunk of it, or one object, is in memory.

    NaN and Infinity, which are not JSON but which Python writes, are read as floats.

    Raises:
        DataError: with file and line, when the file is missing, without rows, damaged or not of that form.
    """
    path = Path(path)
    found = False
    try:
        with open_text(path) as file:
            for row in _rows(path, file):
                found = True
                yield row
    except UnicodeDecodeError:
        raise DataError(f"{path}:{_undecodable_line(path)}: not UTF-8 text; save the file as UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as e:
        raise DataError(f"{path}: the compressed file is damaged or cut ({e}); copy it again") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e}); copy it again") from None
    if not found:
        raise DataError(f"{path}: the file holds no rows; {_EXPECTED}")


def _undecodable_line(path: Path) -> int:
    # The decoder works on blocks and knows no lines, so the file is read once more.
    with _open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def _rows(path: Path, file: IO[str]) -> Iterator[Row]:
    line = 1
    # Lines are read in pieces: a list may be one line of any length.
    while (head := file.readline(_CHUNK)) and not head.strip(_SPACE):
        line += head.count("\n")
    if head.lstrip(_SPACE).startswith("["):
        yield from _list_rows(_Window(path, head.lstrip(_SPACE), line, file))
        return
    if not head.endswith("\n"):
        head += file.readline()
    for number, text in enumerate(chain([head], file), line):
        if text := text.strip(_SPACE):
            window = _Window(path, text, number)
            row = window.take_row()
            if window.peek():
                raise window.error("text after the object")
            yield row


def _list_rows(window: _Window) -> Iterator[Row]:
    """The objects of a JSON list; `window` starts at its opening bracket."""
    window.skip(1)
    more = window.peek() != "]"
    while more:
        yield window.take_row()
        mark = window.peek()
        if not mark:
            raise window.error("the list is not closed, the file may be cut")
        if mark not in ",]":
            raise window.error("not valid JSON (no comma between two items)")
        if more := mark == ",":
            window.skip(1)
    window.skip(1)
    # Looking for the end also makes gzip and xz check their sums.
    if window.peek():
        raise window.error("text after the end of the list")


class _Window:
    """The part of a file that is in memory and the place reached in it; `line` is the line of that place."""

    def __init__(self, path: Path, text: str, line: int, file: IO[str] | None = None) -> None:
        self.path, self.file = path, file
        self.text, self.pos, self.line = text, 0, line

    def skip(self, length: int) -> None:
        self.line += self.text.count("\n", self.pos, self.pos + length)
        self.pos += length

    def peek(self) -> str:
        """The next character that is no white space, "" at the end of the file."""
        while True:
            blank = _BLANK.match(self.text, self.pos)
            self.skip(blank.end() - self.pos if blank else 0)
            if self.pos < len(self.text):
                return self.text[self.pos]
            if not self._grow():
                return ""

    def take_row(self) -> Row:
        """The next object."""
        if self.peek() != "{":
            found = repr(self.text[self.pos : self.pos + 20]) if self.peek() else "the end of the file"
            raise self.error(f"found {found} where an object should start")
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.pos)
            except json.JSONDecodeError as e:
                # The fault is in the file, unless the object just goes on after the part that has been read.
                open_string = e.msg.startswith("Unterminated string")
                if (open_string or e.pos >= len(self.text) - _LONGEST_TOKEN) and self._grow():
                    continue
                at_end = open_string or e.pos >= len(self.text)
                end_of = f"the {'file' if self.file else 'line'} ends inside an object"
                what = end_of if at_end else f"{e.msg} near {self.text[e.pos : e.pos + 20]!r}"
                self.skip(e.pos - self.pos)
                raise self.error(f"not valid JSON ({what})") from None
            except RecursionError:
                raise self.error("the object is nested too deeply") from None
            except ValueError:  # Python puts an end to integers of thousands of digits
                raise self.error("a number of the object has too many digits") from None
            row = Row(line=self.line, value=value)
            self.skip(end - self.pos)
            return row

    def error(self, what: str) -> DataError:
        return DataError(f"{self.path}:{self.line}: {what}; {_EXPECTED}")

    def _grow(self) -> bool:
        # Doubling keeps the time linear when one object is much longer than a chunk and is tried again each time.
        more = self.file.read(max(_CHUNK, len(self.text) - self.pos)) if self.file else ""
        if more:
            self.text, self.pos = self.text[self.pos :] + more, 0
        return bool(more)


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, read in chunks.

    Raises:
        DataError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e}); check the path") from None
    return digest.hexdigest()


# What torch, safetensors and tokenizers say when a write fails; none of them raises an OSError for it.
_WRITE_FAILED = (
    *("PytorchStreamWriter", "inline_container", "iostream error", "IoError", "I/O error"),
    *("No space left", "File too large", "Disk quota exceeded", "Read-only file system"),
)
_ELSEWHERE = "free some space or choose another place, then try again"


@contextmanager
def storage_errors(what: str | Path) -> Iterator[None]:
    """Turn a disk that is full, closed or not there into a StorageError that names `what`."""
    try:
        yield
    except AlignerError:
        raise
    except OSError as e:
        if e.errno in _REFUSED:
            raise StorageError(f"{what}: cannot be written ({e.strerror}); {_ELSEWHERE}") from e
        raise
    except Exception as e:
        if any(sign in str(e) for sign in _WRITE_FAILED):
            raise StorageError(f"{what}: cannot be written ({str(e).splitlines()[0]}); {_ELSEWHERE}") from e
        raise


def write_atomic(path: str | Path, text: str | Iterable[str]) -> None:
    """Write a file, whole or piece by piece, so that a reader sees the old content or the new, never a part of it.

    Lone surrogates, which UTF-8 cannot hold, are written as escapes that JSON and YAML read back.

    Raises:
        StorageError: the disk is full or closed; the old content stands.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with storage_errors(path):
        try:
            with temporary.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
                file.writelines((text,) if isinstance(text, str) else text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def dumps(value: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON on one line, or indented; lone surrogates, which no UTF-8 file can hold, are escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class JsonlWriter:
    """Appends rows to a JSONL file, each whole and handed to the system before the next, so that a killed process
    loses none of them. A last line that a crash left torn is cut off on opening.

    `rows` counts those in the file.

    Raises:
        StorageError: the file cannot be opened for writing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with storage_errors(self.path):
            # A pipe or a terminal has no tail to mend.
            self.rows = _mend_tail(self.path) if self.path.is_file() else 0
            self._file = self.path.open("ab", buffering=0)

    def write(self, value: Mapping[str, Any]) -> None:
        """Append one row.

        Raises:
            StorageError: the disk is full; the rows before this one are whole and nothing stands after them.
        """
        self.append((dumps(value) + "\n").encode("utf-8"))

    def append(self, line: bytes) -> None:
        """Append one row as it stands in another file, with its line end.

        Raises:
            StorageError: as `write`.
        """
        data = memoryview(line)
        with storage_errors(self.path):
            end = os.fstat(self._file.fileno()).st_size
            try:
                while data:
                    data = data[self._file.write(data) :]
            except BaseException:
                self._file.truncate(end)
                raise
        self.rows += 1

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mend_tail(path: Path) -> int:
    """End the file with a whole line: complete a row that only lacks its newline, drop a torn one; returns the rows."""
    rows, tail = 0, b""
    with path.open("rb+") as file:
        for line in file:
            rows += bool(line.strip())
            tail = b"" if line.endswith(b"\n") else line
        end = file.seek(0, os.SEEK_END)
        if tail and _is_object(tail):
            file.write(b"\n")
        elif tail:
            file.truncate(end - len(tail))
            rows -= bool(tail.strip())
    return rows


def _is_object(line: bytes) -> bool:
    # No object begins with another whole one, so what parses is not torn.
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
