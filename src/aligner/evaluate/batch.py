"""Judging offline: requests written in the format of OpenAI's batch API, and the file of their answers read later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aligner.evaluate.llm_judge import Ask
from aligner.generate.chat_api import Body, ChatApi, completion_of, failed, is_answer, request_key
from aligner.generate.store import ResponseStore
from aligner.rows import dumps, read_rows, storage_errors, write_atomic
from aligner.types import Chat, Completion

_PATH = "/v1/chat/completions"
# OpenAI takes 50,000 requests and 200 MB a file.
_MOST_LINES = 50_000
_MOST_BYTES = 190_000_000


@runtime_checkable
class BatchJudge(Protocol):
    """A judge whose questions can be written down, and whose answers can come from elsewhere."""

    api: ChatApi

    def asks(self, question: Chat, candidate: str, baseline: str, dimensions: Sequence[str]) -> list[Ask]: ...


def write_requests(
    path: str | Path,
    asks: Iterable[Ask],
    store: ResponseStore,
    *,
    most_lines: int = _MOST_LINES,
    most_bytes: int = _MOST_BYTES,
) -> dict[Path, int]:
    """Write one line for every request that the store has no answer to; none stands there twice.

    What is too much for one file goes to several, `part_of(path, 1)` and on. Of the lines one is in memory at a time.

    Returns:
        How many lines each file has.

    Raises:
        StorageError: a file cannot be written.
    """
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    counts: list[int] = []

    def counted(group: Iterable[tuple[int, str]]) -> Iterator[str]:
        counts.append(0)
        for _, line in group:
            counts[-1] += 1
            yield line

    for part, group in groupby(_parts(_lines(asks, store), most_lines, most_bytes), key=itemgetter(0)):
        if part == 2:  # whether one file is enough is known only now
            with storage_errors(path):
                path.replace(part_of(path, 1))
        write_atomic(path if part == 1 else part_of(path, part), counted(group))
    if not counts:
        write_atomic(path, "")
    if len(counts) < 2:
        return {path: sum(counts)}
    return {part_of(path, part): count for part, count in enumerate(counts, 1)}


def part_of(path: Path, number: int) -> Path:
    """The name of a part, from 1: requests.jsonl becomes requests-1.jsonl."""
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def left_over(path: Path, parts: int) -> list[Path]:
    """Files that bear the names of further parts: of an earlier time, or of another run, and none of these requests."""
    found = []
    number = 1 if parts < 2 else parts + 1
    while (part := part_of(path, number)).is_file():
        found.append(part)
        number += 1
    return found


def _lines(asks: Iterable[Ask], store: ResponseStore) -> Iterator[str]:
    seen: set[str] = set()
    for ask in asks:
        if ask.key not in seen and store.get(ask.key) is None:
            seen.add(ask.key)
            yield dumps({"custom_id": ask.key, "method": "POST", "url": _PATH, "body": ask.body}) + "\n"


def _parts(lines: Iterable[str], most_lines: int, most_bytes: int) -> Iterator[tuple[int, str]]:
    """Each line with the number of the part that it goes to."""
    part, count, size = 1, 0, 0
    for line in lines:
        length = len(line.encode())
        if count and (count == most_lines or size + length > most_bytes):
            part, count, size = part + 1, 0, 0
        count, size = count + 1, size + length
        yield part, line


def read_answers(paths: Iterable[str | Path], store: ResponseStore) -> dict[str, str]:
    """Keep the answers of batch files in the store, in whatever order they come.

    Returns:
        What went wrong with the others, by custom_id. A request without a line is in neither.

    Raises:
        DataError: a file cannot be read or is no JSONL.
    """
    errors: dict[str, str] = {}
    for path in paths:
        for row in read_rows(path):
            key, response = row.value.get("custom_id"), row.value.get("response")
            if not isinstance(key, str):
                continue
            body = response.get("body") if isinstance(response, Mapping) else None
            status = response.get("status_code", 200) if isinstance(response, Mapping) else None
            if status == 200 and isinstance(body, dict) and is_answer(body):
                store.put(key, body)
                errors.pop(key, None)
            else:
                error = completion_of(body).error if status == 200 else None
                said = error or _message(row.value.get("error")) or _message(body) or "no response"
                errors[key] = f"the batch failed at it (status {status}): {said}"
    return errors


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchAnswers:
    """Stands in for an address: answers from the store alone, and says of all others why there is none."""

    url: str
    store: ResponseStore
    errors: Mapping[str, str]

    async def complete(self, body: Body) -> Completion:
        key = request_key(self.url, body)
        response = self.store.get(key)
        if response is None:
            return failed(self.errors.get(key, "the batch has no answer to it"))
        return completion_of(response)


def _message(value: Any) -> str | None:
    """The words of an error object, wherever they stand in it."""
    if isinstance(value, Mapping):
        return _message(value.get("error")) or _message(value.get("message"))
    return " ".join(value.split())[:300] if isinstance(value, str) and value.strip() else None
