"""ResponseStore: what servers answered, by the full request, so that no answer is asked or paid for twice."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from aligner.errors import DataError, StorageError
from aligner.rows import storage_errors

_BUSY = 60.0  # seconds to wait for another process that writes


class ResponseStore:
    """A SQLite file of response bodies by `request_key`. Tasks, threads and processes may share one.

    It holds questions and answers, and neither headers nor keys of servers.

    Raises:
        DataError: the file is no such store.
        StorageError: it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._db = sqlite3.connect(self.path, timeout=_BUSY, check_same_thread=False, isolation_level=None)
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                # Every answer is on disk before it is used: a power cut loses nothing that was paid for.
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.execute(
                    "CREATE TABLE IF NOT EXISTS responses (key TEXT PRIMARY KEY, response TEXT NOT NULL, "
                    "at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) WITHOUT ROWID"
                )
                self._db.execute("SELECT key, response FROM responses LIMIT 1")
            except sqlite3.Error:
                self._db.close()
                raise

    def get(self, key: str) -> dict[str, Any] | None:
        """The response to a request; None where it was never answered."""
        with self._lock, self._errors():
            found = self._db.execute("SELECT response FROM responses WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        value: dict[str, Any] = json.loads(found[0])
        return value

    def put(self, key: str, response: Mapping[str, Any]) -> None:
        """Keep a response; the first one to a request stays.

        Raises:
            StorageError: the disk is full or closed.
        """
        text = json.dumps(response)  # in ASCII: a lone surrogate fits into no UTF-8 column
        with self._lock, self._errors():
            self._db.execute("INSERT OR IGNORE INTO responses (key, response) VALUES (?, ?)", (key, text))

    def __len__(self) -> int:
        with self._lock, self._errors():
            count: int = self._db.execute("SELECT count(*) FROM responses").fetchone()[0]
        return count

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as e:
            raise StorageError(f"{self.path}: the responses cannot be kept ({e}); free some space, close what else "
                               "uses the file, or choose another place") from e  # fmt: skip
        except sqlite3.DatabaseError as e:
            raise DataError(f"{self.path}: is no store of responses ({e}); move it away or choose another file") from e
