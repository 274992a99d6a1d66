"""Raw JSON of the OpenAI endpoints: where assistant text stands in a body, and how corrected text is put back.

Pure functions. They change text in place and leave every field that they do not know as it is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aligner import chats
from aligner.errors import RequestError
from aligner.types import Chat, Message, Usage

Kind = Literal["chat", "completions", "responses"]
Json = dict[str, Any]

# Reasoning that a server left in the text. Templates that open the block themselves leave only its end in the answer;
# there the tag ends its line, which in prose about such tags it does not.
_OPENED = re.compile(r"\s*<think>.*?(?:</think>\s*|\Z)", re.DOTALL)
_CLOSED = re.compile(r"(?:(?!<think>).)*?</think>\s*(?:\n\s*|\Z)", re.DOTALL)
# What describes the upstream's tokens, and so is wrong once the text is another.
OF_TOKENS = ("logprobs", "token_ids", "annotations")
# Calls of the Responses API that its server runs itself: the answer behind them is whole.
_RUN_THERE = frozenset({
    "code_interpreter_call", "file_search_call", "image_generation_call", "mcp_call", "web_search_call",
})  # fmt: skip
# Why an answer ended before it was whole, by the finish reason of a choice or the detail of an incomplete response.
_CUT = {"content_filter": "content_filter", "length": "length", "max_tokens": "length", "max_output_tokens": "length"}
# Fields of the Responses API that stand for turns which its server keeps.
_KEPT_THERE = ("previous_response_id", "conversation", "prompt")
# Names that vLLM, SGLang and llama.cpp have for a form that an answer must keep to.
_STRUCTURED = (
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "structural_tag", "grammar",
    "regex", "ebnf", "json_schema",
)  # fmt: skip
_SCHEMAS = ("guided_json", "json_schema")  # of which {} is one: any JSON


@dataclass(slots=True, kw_only=True)
class Answer:
    """One text of the assistant in a body, and its place there.

    `head` is reasoning (or an echoed prompt) that stands before the text and is never corrected or shown to the
    corrector. `untouched` says why the text is not to be corrected, `wanted` what it must be then (as the field
    `response_format` of a request), `stops` what it must not hold. `beside` is the object that carries its extension;
    `described` are those that hold fields about its tokens.
    """

    index: int
    question: Chat
    text: str
    beside: Json
    head: str = ""
    untouched: str | None = None
    wanted: Json | None = None
    stops: tuple[str, ...] = ()
    holder: Json = field(default_factory=dict)
    name: str = ""
    described: tuple[Json, ...] = ()

    def put(self, text: str) -> list[str]:
        """Put a corrected text in the answer's place; returns the names of the fields that had to go."""
        self.holder[self.name] = self.head + text
        return drop_token_fields(self.beside, *self.described) if text != self.text else []


def drop_token_fields(*places: Json) -> list[str]:
    """Empty what describes the upstream's tokens; returns the names of what was there."""
    gone: list[str] = []
    for place in places:
        for name in OF_TOKENS:
            if place.get(name):
                place[name] = [] if name == "annotations" else None
                gone.append(name)
    return list(dict.fromkeys(gone))


def read(data: bytes, what: str = "the request's body") -> Json:
    """One JSON object.

    Raises:
        RequestError: 400, it is none.
    """
    try:
        value = _DECODER.decode(data.decode(json.detect_encoding(data), "surrogatepass"))
    except (ValueError, RecursionError) as e:
        raise RequestError(f"{what} is no JSON ({' '.join(str(e).split())[:200]}); send one JSON object",
                           status=400, code="invalid_json") from None  # fmt: skip
    if not isinstance(value, dict):
        raise RequestError(f"{what} is a JSON {type(value).__name__}; send one JSON object", status=400,
                           code="invalid_json")  # fmt: skip
    return value


def read_reply(data: bytes, what: str = "the upstream's answer") -> Json:
    """An upstream's JSON.

    Raises:
        RequestError: 502, it is none.
    """
    try:
        return read(data, what)
    except RequestError as e:
        raise RequestError(str(e).replace("; send one JSON object", ""), status=502, code="upstream_invalid") from None


def write(value: Any) -> bytes:
    """Compact JSON in UTF-8. Lone surrogates, which UTF-8 cannot hold, are written as escapes."""
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def error_body(error: RequestError) -> Json:
    """The shape in which OpenAI's clients expect errors."""
    kind = "invalid_request_error" if error.status < 500 and error.status != 429 else "aligner_error"
    return {"error": {"message": str(error), "type": kind, "param": None, "code": error.code}}


def split_reasoning(text: str) -> tuple[str, str]:
    """(reasoning and the blanks after it, the answer itself)."""
    found = _OPENED.match(text)
    if found is None and "</think>" in text:
        found = _CLOSED.match(text)
    end = found.end() if found else 0
    return text[:end], text[end:]


def check(kind: Kind, request: Json) -> None:
    """What a request must have, whatever the upstream.

    Raises:
        RequestError: 400, a chat without messages, or a model that is no name.
    """
    if not isinstance(request.get("model", ""), str):
        raise RequestError("'model' is no text; give a model's name", status=400, code="invalid_model")
    if kind != "chat":
        return
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("'messages' is missing or empty; give at least one message", status=400,
                           code="missing_messages")  # fmt: skip


def question(kind: Kind, request: Json, index: int = 0) -> Chat:
    """The conversation that an answer answers, text only; () where there is none that can be read."""
    if kind == "completions":
        prompt = request.get("prompt")
        if isinstance(prompt, list) and prompt and all(isinstance(p, str) for p in prompt):
            each = request.get("n")
            prompt = prompt[min(max(index, 0) // (each if isinstance(each, int) and each > 0 else 1), len(prompt) - 1)]
        return (Message(role="user", content=prompt),) if isinstance(prompt, str) else ()
    if kind == "chat":
        return tuple(_turns(request.get("messages")))
    given = request.get("input")
    told = request.get("instructions")
    turns = [Message(role="system", content=told)] if isinstance(told, str) and told else []
    turns += [Message(role="user", content=given)] if isinstance(given, str) else list(_turns(given))
    return tuple(turns)


def why_not(kind: Kind, request: Json, chat: Chat) -> str | None:
    """Why no answer to this request is corrected; None where answers are."""
    if any(request.get(name) or (name in _SCHEMAS and request.get(name) == {}) for name in _STRUCTURED):
        return "structured_output"
    if kind == "completions" and request.get("suffix"):
        return "infill"
    if kind == "responses" and _has_unseen_turns(request):
        return "unseen_turns"
    if not chat:
        return "no_question"
    return "prefill" if chat[-1].role == "assistant" else None


def answers(kind: Kind, request: Json, response: Json) -> list[Answer]:
    """Every text of the assistant in a whole response, in order."""
    found = list(_responses(response) if kind == "responses" else _choices(kind, request, response))
    shared = question(kind, request) if kind != "completions" else ()
    for answer in found:
        answer.question = shared or question(kind, request, answer.index)
        answer.untouched = answer.untouched or why_not(kind, request, answer.question)
        if answer.untouched is None and not answer.text.strip():
            answer.untouched = "empty"
    return found


def cut(ending: Json | None) -> str | None:
    """Why an answer is not whole, by the choice, or the whole response of the Responses API, that it ended with.

    A fragment's correction would be another fragment, or longer than its client asked for.
    """
    details = (ending or {}).get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else (ending or {}).get("finish_reason")
    return _CUT.get(reason) if isinstance(reason, str) else None


def tell_usage(response: Json, spent: Usage) -> None:
    """The corrector's tokens, in the upstream's `usage`; where it has none, in an `aligner.usage` of the
    response's own, because half a `usage` would break clients that read the other half."""
    own = {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "total_tokens": spent.prompt_tokens + spent.completion_tokens,
    }
    if isinstance(usage := response.get("usage"), dict):
        usage["aligner"] = own
    elif spent != Usage():
        response["aligner"] = {"usage": own}


def count(kind: Kind, request: Json) -> int:
    """How many choices a request asks for."""
    each = request.get("n")
    each = each if isinstance(each, int) and each > 0 else 1
    prompt = request.get("prompt")
    several = kind == "completions" and isinstance(prompt, list) and all(isinstance(p, str | list) for p in prompt)
    return each * (max(len(prompt), 1) if several and isinstance(prompt, list) else 1)


def is_text(part: Any, part_type: str) -> bool:
    """Whether a part of a message's content is text."""
    return isinstance(part, dict) and part.get("type") == part_type and isinstance(part.get("text"), str)


def strip_echo(request: Json, chat: Chat, text: str) -> tuple[str, str]:
    """(the prompt that the server repeats, the answer), for completions with `echo`."""
    prompt = chat[0].content if chat and request.get("echo") else ""
    return (prompt, text[len(prompt) :]) if prompt and text.startswith(prompt) else ("", text)


def part_text(content: Any) -> str:
    """Text of a message: a string, or the text parts of a list joined; images and the like are left out."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(text for text in map(chats.part_text, content) if text is not None)


def _choices(kind: Kind, request: Json, response: Json) -> Iterator[Answer]:
    choices = response.get("choices")
    for place, choice in enumerate(choices if isinstance(choices, list) else []):
        if not isinstance(choice, dict):
            continue
        index = choice.get("index")
        index = index if isinstance(index, int) else place
        stopped = cut(choice)
        if kind == "completions":
            if isinstance(choice.get("text"), str):
                echoed, text = strip_echo(request, question(kind, request, index), choice["text"])
                thought, text = split_reasoning(text)
                yield Answer(index=index, question=(), text=text, head=echoed + thought, beside=choice,
                             holder=choice, name="text", untouched=stopped)  # fmt: skip
            continue
        message = choice.get("message")
        if isinstance(message, dict):
            called = "tool_calls" if message.get("tool_calls") or message.get("function_call") else None
            for holder, name in _texts(message, "text"):
                head, text = split_reasoning(holder[name])
                yield Answer(index=index, question=(), text=text, head=head, beside=choice, holder=holder, name=name,
                             described=(message, holder), untouched=stopped or called)  # fmt: skip


def _texts(message: Json, part_type: str) -> Iterator[tuple[Json, str]]:
    content = message.get("content")
    if isinstance(content, str):
        yield message, "content"
    elif isinstance(content, list):
        for part in content:
            if is_text(part, part_type):
                yield part, "text"


def _responses(response: Json) -> Iterator[Answer]:
    output = response.get("output")
    items = output if isinstance(output, list) else []
    untouched = cut(response) or ("tool_calls" if any(map(is_call, items)) else None)
    for place, item in enumerate(items):
        if isinstance(item, dict) and item.get("type") == "message" and item.get("role", "assistant") == "assistant":
            for part, name in _texts(item, "output_text"):
                head, text = split_reasoning(part[name])
                yield Answer(index=place, question=(), text=text, head=head, beside=part, holder=part, name=name,
                             untouched=untouched)  # fmt: skip


def is_call(item: Any) -> bool:
    """Whether an item of the Responses API calls a tool that the client is to run; the answer is not whole then."""
    kind = str(item.get("type", "")) if isinstance(item, dict) else ""
    return kind.endswith("_call") and kind not in _RUN_THERE


def _has_unseen_turns(request: Json) -> bool:
    given = request.get("input")
    parts = given if isinstance(given, list) else []
    referred = any(isinstance(part, dict) and part.get("type") == "item_reference" for part in parts)
    return referred or any(request.get(name) for name in _KEPT_THERE)


def _turns(messages: Any) -> Iterator[Message]:
    for turn in messages if isinstance(messages, list) else []:
        if not isinstance(turn, Mapping):
            continue
        if turn.get("type") == "function_call_output":
            yield chats.api_turn("tool", part_text(turn.get("output")))
            continue
        if turn.get("type", "message") != "message":
            continue  # reasoning, and calls that the assistant made
        text = part_text(turn.get("content"))
        if turn.get("role") == "assistant":
            text = split_reasoning(text)[1]
        if not chats.is_bare_call(turn, text):
            yield chats.api_turn(turn.get("role"), text)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number[:20]} is out of range")
    return value


# Made once: json's own functions make them anew for every call that sets anything.
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
