"""Events: the stream of the Responses API with the assistant's text held back, and corrected text in its place.

Reasoning, tool calls and all else pass at once. An answer is whole with the event that ends the response: only then is
it known whether a tool was called too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aligner.errors import RequestError
from aligner.serve import sse, wire
from aligner.serve.chunks import Place, Step
from aligner.serve.sift import Sifter
from aligner.serve.wire import Answer, Json
from aligner.types import Chat, Usage

_DELTA, _TEXT_DONE = "response.output_text.delta", "response.output_text.done"
_NOTE = "response.output_text.annotation.added"
_PART_DONE, _ITEM_DONE = "response.content_part.done", "response.output_item.done"
_ENDS = ("response.completed", "response.incomplete")
_FAILS = ("error", "response.failed")
_TEXT = 1000  # bytes that a text takes before it has any


@dataclass(slots=True)
class _Text:
    """What is held of one text: its pieces, its first event and those that end it; then what was shown in its place."""

    sifter: Sifter = field(default_factory=Sifter)
    first: Json = field(default_factory=dict)
    pieces: list[str] = field(default_factory=list)
    ends: list[Json] = field(default_factory=list)
    logprobs: bool = False
    shown: str | None = None
    changed: bool = False
    extension: Json | None = None

    @property
    def said(self) -> str:
        """The whole text, as the upstream's events tell it."""
        told = next((e["text"] for e in self.ends if isinstance(e.get("text"), str)), None)
        return "".join(self.pieces) if told is None else told

    def put(self, part: Json) -> Json:
        """A part that has this text, or an event that tells it, with what was shown in its place."""
        new = {**part, "text": self.shown}
        if self.changed:
            wire.drop_token_fields(new)
        return new

    def part(self, part: Json) -> Json:
        new = self.put(part)
        return new if self.extension is None else {**new, "aligner": self.extension}


class EventStream:
    """Reads the upstream's events one by one and writes those of the corrected answer.

    Args:
        request: the request's body.
    """

    def __init__(self, request: Json) -> None:
        self._request = request
        self._texts: dict[Place, _Text] = {}
        self._items: list[tuple[int, Json]] = []
        self._outputs: dict[str, int] = {}
        self._last: Json | None = None
        self._places: dict[int, Place] = {}
        self._called = False
        self._spent = Usage()
        self._count = 0
        self.live: set[Place] = set()
        """Where corrected text is shown before the answer is whole; whoever shows it says so."""
        self.done = False
        """Whether the upstream said that nothing comes any more."""
        self.held = 0
        """About how many bytes are kept."""

    @property
    def whole(self) -> bool:
        """Whether the response came to its end."""
        return self._last is not None

    @property
    def complete(self) -> bool:
        """Whether nothing is missing if the upstream goes."""
        return self.whole

    def feed(self, event: sse.Event) -> Step:
        """What an event leads to.

        Raises:
            RequestError: 502, its data is no JSON.
        """
        step = Step()
        if event.data.strip() == b"[DONE]":
            self.done = True  # clients stop reading there, so it goes behind the answer
            return step
        if not event.data:
            step.now.append(event.raw)
            return step
        value = wire.read_reply(event.data, "an event of the upstream")
        if event.name and not value.get("type"):
            value["type"] = event.name
        kind = str(value.get("type"))
        response, item, output = value.get("response"), value.get("item"), self._output(value)
        self._called = self._called or wire.is_call(item)
        if kind in _FAILS:
            step.failed = True
        if kind in _ENDS and isinstance(response, dict):
            if self._last is None:
                self._last = value
                self.held += len(event.data)
                self._close(response, step)
        elif kind.startswith("response.output_text.") or (kind == _PART_DONE and _is_text(value.get("part"))):
            self._keep(kind, output, value, len(event.data), step)
        elif kind == _ITEM_DONE and isinstance(item, dict) and item.get("type") == "message":
            self._items.append((output, value))
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
        first = self._texts[place].first if place in self._texts else {}
        first = first or {"output_index": output, "content_index": content}
        value = {**first, "type": _DELTA, "delta": piece}
        wire.drop_token_fields(value)
        return self._encoded(value)

    def put(self, answer: Answer, text: str) -> list[str]:
        """Put what was shown in an answer's place; returns the names of what described the answer and had to go."""
        held = self._texts.setdefault(self.place(answer), _Text())
        held.shown, held.changed = answer.head + text, text != answer.text
        gone = answer.put(text)
        described = [*held.ends, *(e["part"] for e in held.ends if isinstance(e.get("part"), dict)), answer.holder]
        if held.logprobs and not any(place.get("logprobs") for place in described):
            gone.append("logprobs")  # they stood in the pieces alone, which are others now
        if held.changed:
            gone += [name for place in described for name in wire.OF_TOKENS if place.get(name)]
            gone += ["annotations" for event in held.ends if event.get("type") == _NOTE]
        return list(dict.fromkeys(gone))

    def finish(self, answer: Answer, text: str, spent: Usage, extension: Json | None) -> bytes:
        """The events that end one text."""
        self._spent += spent
        held = self._texts[self.place(answer)]
        held.extension = extension
        if extension is not None:
            answer.beside["aligner"] = extension
        ends: list[bytes] = []
        for event in held.ends:
            kind = event.get("type")
            if kind == _NOTE and not held.changed:
                ends.append(self._encoded(event))
            elif kind == _TEXT_DONE:
                ends.append(self._encoded(held.put(event)))
            elif kind == _PART_DONE:
                ends.append(self._encoded({**event, "part": held.part(event["part"])}))
        return b"".join(ends)

    def end(self) -> bytes:
        """What comes after all texts: the items that hold them, and the response's end."""
        last = self._last or {}
        if isinstance(response := last.get("response"), dict):
            wire.tell_usage(response, self._spent)
        ends = [self._encoded({**event, "item": self._item(output, event["item"])}) for output, event in self._items]
        return b"".join([*ends, self._encoded(last), sse.DONE if self.done else b""])

    def error(self, error: RequestError) -> bytes:
        """The event that tells an error."""
        return self._encoded({**wire.error_body(error)["error"], "type": "error", "sequence_number": self._count})

    def _close(self, response: Json, step: Step) -> None:
        """The response is whole: its answers are ready to be corrected, or say why they are not."""
        heard = sorted(self._texts)
        step.ready = wire.answers("responses", self._request, response)
        if not step.ready:  # some servers leave the end empty
            said = [{"type": "output_text", "text": self._texts[place].said} for place in heard]
            items = [{"type": "message", "content": [part]} for part in said]
            step.ready = wire.answers("responses", self._request, {**response, "output": items})
        for i, answer in enumerate(step.ready):
            # The events' own numbers count, as clients know the texts by them.
            place = heard[i] if len(heard) == len(step.ready) else _place(response, answer)
            self._places[id(answer)] = place
            if self._called:
                answer.untouched = answer.untouched or "tool_calls"
            shown = self._texts[place].sifter.shown if place in self._texts else ""
            if place in self.live and answer.head != shown:
                # It was taken for the answer, and what was shown cannot be taken back.
                text = answer.head + answer.text
                answer.head, answer.text = shown, text.removeprefix(shown)
                answer.untouched = answer.untouched or "reasoning"
            elif len(answer.head) > len(shown) and answer.head.startswith(shown):
                step.now.append(self.text(place, answer.head[len(shown) :]))

    def _output(self, event: Json) -> int:
        """The number of the item that an event speaks of: the event's own, else that of the item's id, else the last
        item's."""
        item, number = event.get("item"), event.get("output_index")
        # A call may have no id of its own.
        name = (item.get("id") or item.get("call_id")) if isinstance(item, dict) else event.get("item_id")
        if isinstance(name, str) and name not in self._outputs:
            self._outputs[name] = number if isinstance(number, int) else len(self._outputs)
            self.held += len(name)
        if isinstance(number, int):
            return number
        return self._outputs[name] if isinstance(name, str) else max(len(self._outputs) - 1, 0)

    def _keep(self, kind: str, output: int, value: Json, size: int, step: Step) -> None:
        """An event that carries the assistant's text, or ends something that does."""
        if self._last is not None:
            return
        content = value.get("content_index")
        place = (output, content if isinstance(content, int) else 0)
        if (held := self._texts.get(place)) is None:
            held = self._texts[place] = _Text()
            self.held += _TEXT
        if kind != _DELTA:
            held.ends.append(value)
            self.held += size
        elif isinstance(piece := value.get("delta"), str):
            if not held.first:
                held.first = value
                self.held += size
            held.pieces.append(piece)
            held.logprobs = held.logprobs or bool(value.get("logprobs"))
            self.held += 2 * len(piece)  # it is kept here and in the sifter
            shown, heard = held.sifter.push(piece)
            if shown:
                step.now.append(self.text(place, shown))
            if heard:
                step.heard.append((place, heard))

    def _item(self, output: int, item: Json) -> Json:
        """An item that ended, with what was shown in the place of its texts."""
        parts = item.get("content")
        shown = {c: text for (o, c), text in self._texts.items() if o == output and text.shown is not None}
        if isinstance(parts, str) and 0 in shown:
            return {**item, "content": shown[0].shown}
        if not isinstance(parts, list):
            return item
        new = [shown[i].part(part) if i in shown and _is_text(part) else part for i, part in enumerate(parts)]
        return {**item, "content": new}

    def _encoded(self, value: Json) -> bytes:
        if "sequence_number" in value:
            value = {**value, "sequence_number": self._count}
        self._count += 1
        return sse.encode(value, str(value.get("type", "")))


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "output_text"


def _place(response: Json, answer: Answer) -> Place:
    parts = response["output"][answer.index]["content"]
    return answer.index, next((i for i, part in enumerate(parts) if part is answer.holder), 0)
