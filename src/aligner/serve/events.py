"""Events: the stream of the Responses API with the assistant's text held back, and corrected text in its place.

Reasoning, tool calls and all else pass at once. An answer is whole with the event that ends the response: only then is
it known whether a tool was called too.
"""

from __future__ import annotations

from typing import Any

from aligner.serve import sse, wire
from aligner.serve.chunks import Place, Step
from aligner.serve.wire import Answer, Json
from aligner.types import Chat, Usage

_ENDS = ("response.completed", "response.incomplete")
_FAILS = ("error", "response.failed")
_KEPT = ("response.output_text.done", "response.content_part.done", "response.output_item.done")


class EventStream:
    """Reads the upstream's events one by one and writes those of the corrected answer.

    Args:
        request: the request's body.
    """

    def __init__(self, request: Json) -> None:
        self._request = request
        self._held: list[Json] = []
        self._last: Json | None = None
        self._places: dict[int, tuple[int, int]] = {}
        self._spent = Usage()
        self._count = 0
        self._like: dict[Place, Json] = {}
        self.held = 0
        """About how many bytes are kept."""

    @property
    def whole(self) -> bool:
        """Whether the response came to its end."""
        return self._last is not None

    def feed(self, event: sse.Event) -> Step:
        """What an event leads to.

        Raises:
            RequestError: 502, its data is no JSON.
        """
        step = Step()
        if not event.data or event.data.strip() == b"[DONE]":
            step.now.append(event.raw)
            return step
        value = wire.read_reply(event.data, "an event of the upstream")
        kind = value.get("type") or event.name
        if kind in _FAILS:
            step.failed = True
        if kind in _ENDS and isinstance(value.get("response"), dict):
            self._last = value
            self.held += len(event.data)
            step.ready = wire.answers("responses", self._request, value["response"])
            self._places = {id(answer): _place(value["response"], answer) for answer in step.ready}
        elif _is_text(kind, value):
            output, content, piece = value.get("output_index"), value.get("content_index"), value.get("delta")
            if (
                kind == "response.output_text.delta"
                and isinstance(output, int)
                and isinstance(content, int)
                and isinstance(piece, str)
            ):
                step.heard.append(((output, content), piece))
                self.held += len(piece)
                if (output, content) not in self._like:
                    self._like[output, content] = value
                    self.held += len(event.data)
            elif kind in _KEPT:
                self._held.append(value)
                self.held += len(event.data)
        else:
            step.now.append(self._encoded(value))
        return step

    def place(self, answer: Answer) -> Place:
        """Where an answer that is whole stands."""
        return self._places[id(answer)]

    def question(self, place: Place) -> Chat:
        """What an answer that is not whole yet answers."""
        return wire.question("responses", self._request)

    def text(self, place: Place, piece: str) -> bytes:
        """An event with the next piece of a corrected text."""
        output, content = place
        own = {"type": "response.output_text.delta", "output_index": output, "content_index": content, "delta": piece}
        value = {**self._like.get(place, {}), **own}
        wire.drop_token_fields(value)
        return self._encoded(value)

    def finish(self, answer: Answer, text: str, spent: Usage, extension: Json | None) -> bytes:
        """The events that end one text."""
        self._spent += spent
        output, content = self._places[id(answer)]
        answer.put(text)
        if extension is not None:
            answer.beside["aligner"] = extension
        ends: list[bytes] = []
        for event in self._held:
            if _at(event, output, content) and event.get("type") == "response.output_text.done":
                wire.drop_token_fields(event)
                ends.append(self._encoded({**event, "text": answer.head + text}))
            elif _at(event, output, content) and event.get("type") == "response.content_part.done":
                ends.append(self._encoded({**event, "part": answer.holder}))
        return b"".join(ends)

    def end(self) -> bytes:
        """What comes after all texts: the items that hold them, and the response's end."""
        last = self._last or {}
        response: Json = last.get("response") or {}
        wire.add_usage(response.get("usage"), self._spent)
        ends: list[bytes] = []
        for event in self._held:
            if event.get("type") == "response.output_item.done":
                place: Any = event.get("output_index")
                items = response.get("output") or []
                whole = items[place] if isinstance(place, int) and 0 <= place < len(items) else event.get("item")
                ends.append(self._encoded({**event, "item": whole}))
        return b"".join([*ends, self._encoded(last)])

    def _encoded(self, value: Json) -> bytes:
        if "sequence_number" in value:
            value = {**value, "sequence_number": self._count}
        self._count += 1
        return sse.encode(value, str(value.get("type", "")))


def _is_text(kind: str, value: Json) -> bool:
    """Whether an event carries the assistant's text, or ends something that does."""
    if kind.startswith("response.output_text."):
        return True
    part, item = value.get("part"), value.get("item")
    if kind == "response.content_part.done":
        return isinstance(part, dict) and part.get("type") == "output_text"
    return kind == "response.output_item.done" and isinstance(item, dict) and item.get("type") == "message"


def _place(response: Json, answer: Answer) -> tuple[int, int]:
    parts = response["output"][answer.index]["content"]
    return answer.index, next((i for i, part in enumerate(parts) if part is answer.holder), 0)


def _at(event: Json, output: int, content: int) -> bool:
    return event.get("output_index") == output and event.get("content_index") == content
