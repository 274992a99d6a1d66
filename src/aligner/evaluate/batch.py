"""Judging offline: requests written in the format of OpenAI's batch API, and the file of their answers read later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from aligner.evaluate.llm_judge import Ask
from aligner.generate.chat_api import Body, ChatApi, completion_of, failed, is_answer, request_key
from aligner.generate.store import ResponseStore
from aligner.rows import dumps, read_rows, write_atomic
from aligner.types import Chat, Completion

_PATH = "/v1/chat/completions"


@runtime_checkable
class BatchJudge(Protocol):
    """A judge whose questions can be written down, and whose answers can come from elsewhere."""

    api: ChatApi

    def asks(self, question: Chat, candidate: str, baseline: str, dimensions: Sequence[str]) -> list[Ask]: ...


def write_requests(path: str | Path, asks: Iterable[Ask], store: ResponseStore) -> int:
    """Write one line for every request that the store has no answer to; none stands there twice.

    Returns:
        How many lines.

    Raises:
        StorageError: the file cannot be written.
    """
    lines: dict[str, str] = {}
    for ask in asks:
        if ask.key not in lines and store.get(ask.key) is None:
            lines[ask.key] = dumps({"custom_id": ask.key, "method": "POST", "url": _PATH, "body": ask.body})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(f"{line}\n" for line in lines.values()))
    return len(lines)


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
