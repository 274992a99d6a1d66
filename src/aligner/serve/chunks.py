"""Chunks: the stream of a chat or of completions with the assistant's text held back, and corrected text in its place.

Everything but that text passes at once: roles, reasoning, tool calls and whatever else a chunk carries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aligner.errors import RequestError
from aligner.serve import sse, wire
from aligner.serve.sift import Sifter
from aligner.serve.wire import Answer, Json
from aligner.types import Chat, Usage

_CHOICE = 1000  # bytes that a choice takes before it has a text
_DESCRIBED = 4 << 20  # bytes of a stream's events whose descriptions of tokens are kept
Place = tuple[int, int]
"""Where a text stands in a response: which choice or item, and which part of it."""


@dataclass(slots=True)
class _Choice:
    """What is held of one choice: its text so far, what describes that text, and its last chunk."""

    sifter: Sifter
    last: Json | None = None
    called: bool = False
    described: Json = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


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
        self._name = "content" if kind == "chat" else "text"
        self._echo = kind == "completions" and bool(request.get("echo"))
        self._choices: dict[int, _Choice] = {}
        self._shape: Json | None = None
        self._tail: list[Json] = []
        self._spent = Usage()
        self._described = 0
        self._failed = False
        self.live: set[Place] = set()
        """Where corrected text is shown before the answer is whole; whoever shows it says so."""
        self.done = False
        """Whether the upstream said that nothing comes any more."""
        self.held = 0
        """About how many bytes are kept."""

    @property
    def whole(self) -> bool:
        """Whether every choice that began has ended."""
        return self.done or (bool(self._choices) and all(choice.last is not None for choice in self._choices.values()))

    @property
    def complete(self) -> bool:
        """Whether every choice that was asked for has ended, so that nothing is missing if the upstream goes."""
        return self.whole and (self.done or len(self._choices) >= wire.count(self._kind, self._request))

    def feed(self, event: sse.Event) -> Step:
        """What an event leads to.

        Raises:
            RequestError: 502, its data is no JSON, or it goes on with an answer that had ended.
        """
        step = Step()
        if self.done:
            return step
        if event.data.strip() == b"[DONE]":
            self.done = True
            for index, held in self._choices.items():
                # Nothing says why it ended, and nothing is made up; behind an error it is half an answer.
                if held.last is None and not self._failed:
                    held.last = self._made(index, {} if self._kind == "chat" else "")
                    self._close(index, held, step)
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

    def put(self, answer: Answer, text: str) -> list[str]:
        """What was shown in an answer's place; returns the names of what described the answer and had to go.

        What describes an answer that stays comes with its last chunk.
        """
        held = self._choices[answer.index]
        if text != answer.text:
            return list(dict.fromkeys([*held.described, *held.lost]))
        _merge(_choice(held.last), held.described)
        return list(dict.fromkeys(held.lost))

    def finish(self, answer: Answer, text: str, spent: Usage, extension: Json | None) -> bytes:
        """The chunk that ends a choice, as the upstream sent it but for its text; one that counts tokens waits for the
        other choices."""
        self._spent += spent
        chunk = self._choices[answer.index].last or {}
        if extension is not None:
            _choice(chunk)["aligner"] = extension
        if isinstance(chunk.get("usage"), dict):
            self._tail.insert(0, chunk)
            return b""
        return sse.encode(chunk)

    def end(self) -> bytes:
        """What comes after all choices: usage, and the stream's end."""
        options = self._request.get("stream_options")
        asked = isinstance(options, dict) and options.get("include_usage")
        counted = [chunk for chunk in self._tail if isinstance(chunk.get("usage"), dict)]
        if asked and not counted and self._spent != Usage():
            counted = [{**(self._shape or {}), "choices": []}]
            self._tail += counted
        for chunk in counted:
            wire.tell_usage(chunk, self._spent)
        return b"".join([*map(sse.encode, self._tail), sse.DONE])

    def error(self, error: RequestError) -> bytes:
        """The event that tells an error."""
        return sse.encode(wire.error_body(error))

    def _read(self, chunk: Json, event: sse.Event, step: Step) -> None:
        if chunk.get("error"):
            step.failed = self._failed = True
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
                self._take({**alone, "choices": [choice]}, choice, len(event.data), step)

    def _take(self, chunk: Json, choice: Json, size: int, step: Step) -> None:
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        if (held := self._choices.get(index)) is None:
            held = self._choices[index] = _Choice(Sifter(whole=self._echo))
            self.held += _CHOICE
        delta = choice.get("delta") if self._kind == "chat" else choice
        delta = delta if isinstance(delta, dict) else {}
        text, parts = _parted(delta.get(self._name))
        if held.last is not None:
            self._after(chunk, text, step)
            return
        held.called = held.called or bool(delta.get("tool_calls") or delta.get("function_call"))
        ends = bool(choice.get("finish_reason"))  # some servers send an empty one in every chunk
        shown, heard = held.sifter.push(text) if text else ("", "")
        self.held += len(text or "") - len(shown)
        # Text that is shown as it comes has to be shown to its end; any other is read when it is whole.
        if heard and ((index, 0) in self.live or not (held.called or ends)):
            step.heard.append(((index, 0), heard))
        if ends or (text and shown != text):
            self._describe(held, choice, size)
        if parts:
            step.now.append(self._chunk(index, parts))
        if text is not None:
            delta[self._name] = shown
        if ends:
            held.last = chunk
            if shown:
                step.now.append(self._chunk(index, shown))
            if self._kind != "chat":
                delta[self._name] = ""
            elif text is not None:
                del delta[self._name]
            self._close(index, held, step)
        elif shown or not text or set(delta) - {self._name, *(_ALWAYS if self._kind == "completions" else ())}:
            step.now.append(sse.encode(chunk))

    def _after(self, chunk: Json, text: str | None, step: Step) -> None:
        """A chunk of a choice that has ended may count tokens or carry what is no text."""
        if text:
            raise RequestError("the upstream sent more text of an answer after the chunk that ended it", status=502,
                               code="upstream_invalid")  # fmt: skip
        if isinstance(chunk.get("usage"), dict):
            self._tail.append(chunk)
            self.held += _CHOICE
        else:
            step.now.append(sse.encode(chunk))

    def _describe(self, held: _Choice, choice: Json, size: int) -> None:
        """Take what describes the upstream's tokens out of a chunk whose text is held."""
        found = {name: choice[name] for name in wire.OF_TOKENS if choice.get(name)}
        wire.drop_token_fields(choice)
        if not found:
            return
        self._described += size
        if self._described > _DESCRIBED:  # far more than the text itself
            held.lost += [*held.described, *found]
            held.described.clear()
        elif not held.lost:
            self.held += size
            _merge(held.described, found)

    def _close(self, index: int, held: _Choice, step: Step) -> None:
        """A choice is whole: its answer is ready to be corrected, or says why it is not."""
        chat = wire.question(self._kind, self._request, index)
        head, text = held.sifter.rest()
        if self._echo:
            echoed, text = wire.strip_echo(self._request, chat, text)
            head, text = wire.split_reasoning(text)
            head = echoed + head
        untouched = wire.cut(_choice(held.last)) or ("tool_calls" if held.called else None)
        untouched = untouched or wire.why_not(self._kind, self._request, chat)
        if head and (index, 0) in self.live:  # it was taken for the answer, and what was shown cannot be taken back
            head, text, untouched = "", head + text, untouched or "reasoning"
        if head:
            step.now.append(self._chunk(index, head))
        if untouched is None and not text.strip():
            untouched = "empty"
        step.ready.append(Answer(index=index, question=chat, text=text, beside={}, untouched=untouched))

    def _chunk(self, index: int, content: Any) -> bytes:
        return sse.encode(self._made(index, {"content": content} if self._kind == "chat" else content))

    def _made(self, index: int, content: Any) -> Json:
        name = "delta" if self._kind == "chat" else "text"
        choice = {"index": index, name: content, "logprobs": None, "finish_reason": None}
        return {**(self._shape or {}), "choices": [choice]}


def _choice(chunk: Json | None) -> Json:
    choice: Json = chunk["choices"][0] if chunk else {}
    return choice


def _parted(content: Any) -> tuple[str | None, list[Any]]:
    """(text, parts of other kinds) of a chunk's content, a string or a list of parts; no text is None."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        return None, []
    texts = [part for part in content if wire.is_text(part, "text")]
    return "".join(part["text"] for part in texts), [part for part in content if not wire.is_text(part, "text")]


def _merge(into: Json, more: Json) -> None:
    """Put lists behind lists of the same name, at any depth."""
    for name, value in more.items():
        old = into.get(name)
        if isinstance(old, list) and isinstance(value, list):
            old.extend(value)
        elif isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        elif value is not None or name not in into:
            into[name] = value


_ALWAYS = ("index", "logprobs", "finish_reason", "stop_reason", "token_ids", "prompt_token_ids")
