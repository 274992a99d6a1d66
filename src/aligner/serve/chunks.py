"""Chunks: the stream of a chat or of completions with the assistant's text held back, and corrected text in its place.

Everything but that text passes at once: roles, reasoning, tool calls and whatever else a chunk carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aligner.serve import sse, wire
from aligner.serve.wire import Answer, Json
from aligner.types import Chat, Usage

_OPEN, _CLOSE = "<think>", "</think>"
_CHOICE = 1000  # bytes that a choice takes before it has a text
Place = tuple[int, int]
"""Where a text stands in a response: which choice or item, and which part of it."""


@dataclass(slots=True)
class _Choice:
    """What is held of one choice: its text so far, and its last chunk."""

    thinking: Literal["unknown", "yes", "after", "no"] = "unknown"
    waiting: str = ""  # text of which it is not certain yet whether it is reasoning
    texts: list[str] = field(default_factory=list)
    last: Json | None = None
    thought: bool = False  # its reasoning was shown already
    called: bool = False
    logprobs: bool = False


@dataclass(slots=True)
class Step:
    """What one event of the upstream leads to: bytes to send now, answers that are whole, and text of answers that are
    not (`heard`, by place)."""

    now: list[bytes] = field(default_factory=list)
    ready: list[Answer] = field(default_factory=list)
    heard: list[tuple[Place, str]] = field(default_factory=list)
    failed: bool = False


class ChunkStream:
    """Reads the upstream's chunks one by one and writes those of the corrected answer.

    Args:
        kind: of the endpoint, "chat" or "completions".
        request: the request's body.
    """

    def __init__(self, kind: wire.Kind, request: Json) -> None:
        self._kind, self._request = kind, request
        self._choices: dict[int, _Choice] = {}
        self._shape: Json | None = None
        self._tail: list[Json] = []
        self._spent = Usage()
        self.done = False
        self.held = 0
        """About how many bytes are kept."""

    @property
    def whole(self) -> bool:
        """Whether every choice that began has ended."""
        return bool(self._choices) and all(choice.last is not None for choice in self._choices.values())

    def feed(self, event: sse.Event) -> Step:
        """What an event leads to.

        Raises:
            RequestError: 502, its data is no JSON.
        """
        step = Step()
        if event.data.strip() == b"[DONE]":
            self.done = True
        elif not event.data:
            step.now.append(event.raw)  # a comment, which keeps connections open
        else:
            self._read(wire.read_reply(event.data, "a chunk of the upstream"), event, step)
        return step

    def place(self, answer: Answer) -> Place:
        """Where an answer that is whole stands."""
        return answer.index, 0

    def question(self, place: Place) -> Chat:
        """What an answer that is not whole yet answers."""
        return wire.question(self._kind, self._request, place[0])

    def text(self, place: Place, piece: str) -> bytes:
        """A chunk with the next piece of a corrected text."""
        return self._chunk(place[0], piece)

    def finish(self, answer: Answer, text: str, spent: Usage, extension: Json | None) -> bytes:
        """The chunk that ends a choice, as the upstream sent it but for its text."""
        self._spent += spent
        choice = self._choices[answer.index]
        chunk = choice.last or {}
        if extension is not None:
            chunk["choices"][0]["aligner"] = extension
        wire.add_usage(chunk.get("usage"), self._spent)
        return sse.encode(chunk)

    def end(self) -> bytes:
        """What comes after all choices: usage, and the stream's end."""
        for chunk in self._tail:
            wire.add_usage(chunk.get("usage"), self._spent)
        return b"".join([*map(sse.encode, self._tail), sse.DONE])

    def _read(self, chunk: Json, event: sse.Event, step: Step) -> None:
        if chunk.get("error"):
            step.failed = True
            step.now.append(event.raw)
            return
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices:
            if chunk.get("usage"):
                self._tail.append(chunk)
                self.held += len(event.data)
            else:
                step.now.append(event.raw)
            return
        if self._shape is None:
            self._shape = {k: v for k, v in chunk.items() if k not in ("choices", "usage")}
        for place, choice in enumerate(choices):
            if isinstance(choice, dict):
                last = place == len(choices) - 1
                # Each choice travels in a chunk of its own; what counts for all of them goes with the last.
                alone = {k: v for k, v in chunk.items() if k not in ("choices", "usage") or (k == "usage" and last)}
                self._take({**alone, "choices": [choice]}, choice, step)

    def _take(self, chunk: Json, choice: Json, step: Step) -> None:
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        if (held := self._choices.get(index)) is None:
            held = self._choices[index] = _Choice()
            self.held += _CHOICE
        if held.last is not None:
            step.now.append(sse.encode(chunk))
            return
        delta = choice.get("delta") if self._kind == "chat" else choice
        delta = delta if isinstance(delta, dict) else {}
        name = "content" if self._kind == "chat" else "text"
        held.called = held.called or bool(delta.get("tool_calls") or delta.get("function_call"))
        text = delta.get(name)
        known = len(held.texts)
        shown = self._sift(held, text) if isinstance(text, str) else ""
        self.held += len(text) - len(shown) if isinstance(text, str) else 0
        if len(held.texts) > known and not held.called:
            step.heard.append(((index, 0), "".join(held.texts[known:])))
        if isinstance(text, str) and text:
            held.logprobs = bool(wire.drop_token_fields(choice)) or held.logprobs
            delta[name] = shown
        if choice.get("finish_reason") is not None:
            held.last = chunk
            if shown:
                step.now.append(self._chunk(index, shown))
            if self._kind == "chat":
                delta.pop(name, None)
            else:
                delta[name] = ""
            self._close(index, held, choice, step)
        elif shown or not text or set(delta) - ({name} if self._kind == "chat" else {name, "index", *_ALWAYS}):
            step.now.append(sse.encode(chunk))

    def _sift(self, held: _Choice, text: str) -> str:
        """Keep the answer's own text; returns what is reasoning and may be shown at once."""
        if held.thinking == "no":
            held.texts.append(text)
            return ""
        held.waiting += text
        shown = ""
        if held.thinking == "unknown":
            begin = held.waiting.lstrip()
            if begin.startswith(_OPEN):
                held.thinking, held.thought = "yes", True
            elif not _OPEN.startswith(begin):
                held.thinking = "no"
                held.texts.append(held.waiting)
                held.waiting = ""
        if held.thinking == "yes":
            before, tag, after = held.waiting.partition(_CLOSE)
            if tag:
                held.thinking, held.waiting, shown = "after", after, before + tag
            else:  # the tag itself may come in pieces
                cut = next((n for n in range(len(_CLOSE) - 1, 0, -1) if before.endswith(_CLOSE[:n])), 0)
                shown, held.waiting = before[: len(before) - cut], before[len(before) - cut :]
        if held.thinking == "after":
            begin = held.waiting.lstrip()
            shown += held.waiting[: len(held.waiting) - len(begin)]
            held.waiting = ""
            if begin:
                held.thinking = "no"
                held.texts.append(begin)
        return shown

    def _close(self, index: int, held: _Choice, choice: Json, step: Step) -> None:
        """A choice is whole: its answer is ready to be corrected, or says why it is not."""
        chat = wire.question(self._kind, self._request, index)
        if held.thinking == "yes":  # reasoning that was cut off
            head, text = held.waiting, ""
        else:
            text = "".join(held.texts) + held.waiting
            head, text = wire.strip_echo(self._request, chat, text) if self._kind == "completions" else ("", text)
            if not head and not held.thought:
                head, text = wire.split_reasoning(text)
        if head:
            step.now.append(self._chunk(index, head))
        untouched = "content_filter" if choice.get("finish_reason") == "content_filter" else None
        untouched = (
            untouched or ("tool_calls" if held.called else None) or wire.why_not(self._kind, self._request, chat)
        )
        if untouched is None and not text.strip():
            untouched = "empty"
        beside: Json = {"logprobs": held.logprobs} if held.logprobs else {}
        step.ready.append(Answer(index=index, question=chat, text=text, beside=beside, untouched=untouched))

    def _chunk(self, index: int, text: str) -> bytes:
        choice: Mapping[str, Any]
        if self._kind == "chat":
            choice = {"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
        else:
            choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None}
        return sse.encode({**(self._shape or {}), "choices": [choice]})


_ALWAYS = ("logprobs", "finish_reason", "stop_reason", "token_ids", "prompt_token_ids")
