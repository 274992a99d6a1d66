"""Chat completions as JSON: what is sent to an OpenAI-compatible address, its key, and what came back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from aligner.errors import ConfigError
from aligner.types import Chat, Completion, FinishReason, Sampling, Usage

Body = dict[str, Any]

_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "eos": "stop", "end_turn": "stop"}

_SHORT = re.compile(r"[\w.-]{1,64}")


class ChatApi(Protocol):
    """Answers one request body at a time. What cannot be answered is a completion with an error."""

    url: str

    async def complete(self, body: Body) -> Completion: ...


def check_url(url: str) -> str:
    """The address without a slash at its end.

    Raises:
        ConfigError: it is no http address, or holds a user, a password or a query, which would end up in files.
    """
    try:
        parts = urlsplit(url)
        host, inside = parts.hostname, parts.username or parts.password or parts.query
    except ValueError:
        host, inside, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"'{url}' is no address of an API; write it like http://localhost:8000/v1")
    if inside:
        raise ConfigError(f"the address of {host} holds a password or a query, and addresses are written to files; "
                          "give the bare address, and the name of the key's variable in 'api_key_env'")  # fmt: skip
    return url.rstrip("/")


def chat_body(model: str, chat: Chat, sampling: Sampling, fields: Mapping[str, Any] | None = None) -> Body:
    """The request for a chat. `fields` are laid over it; one that is None is left out of the request.

    Greedy requests carry no seed. `top_k` is no field of OpenAI's own API; other servers take it.
    """
    body: Body = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in chat],
        "temperature": sampling.temperature,
    }
    if not sampling.greedy:
        body["seed"] = sampling.seed
        if sampling.top_p < 1:
            body["top_p"] = sampling.top_p
        if sampling.top_k:
            body["top_k"] = sampling.top_k
    if sampling.max_new_tokens is not None:
        body["max_tokens"] = sampling.max_new_tokens
    return {name: value for name, value in {**body, **(fields or {})}.items() if value is not None}


def request_key(url: str, body: Mapping[str, Any]) -> str:
    """SHA-256 of the full request as canonical JSON: the address and the body, no headers and so no keys."""
    text = json.dumps({"url": url, "body": body}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def completion_of(response: object) -> Completion:
    """What a response body says; one that is no chat completion, or has no text, is a failed completion."""
    choice = _first(_get(response, "choices"))
    message = _get(choice, "message")
    usage = usage_of(_get(response, "usage"))
    if not isinstance(message, Mapping):
        return failed(f"the reply is no chat completion: {_shown(response)}", usage)
    text = _text(message.get("content"))
    if text is None:
        text = _text(message.get("refusal"))
    reason = _get(choice, "finish_reason")
    if reason == "content_filter":
        return failed("the server's content filter stopped the answer", usage)
    if text is None:
        return failed(f"the reply has no text (finish_reason {reason!r})", usage)
    # Some servers leave the reason out, or have words of their own for an ordinary end.
    return Completion(text=text, finish_reason=_REASONS.get(str(reason), "stop"), usage=usage)


def is_answer(response: object) -> bool:
    """Whether a response is the model's answer, be it one without text: the same request would be paid for again."""
    choice = _first(_get(response, "choices"))
    reason = _get(choice, "finish_reason")
    # Some routers tell so of a provider that failed, and the next trial may reach another.
    ended = isinstance(reason, str) and reason not in ("", "error") and not _get(choice, "error")
    return completion_of(response).error is None or (ended and isinstance(_get(choice, "message"), Mapping))


def failed(error: str, usage: Usage | None = None) -> Completion:
    return Completion(text="", finish_reason="error", usage=usage or Usage(), error=error)


def named(error: BaseException) -> str:
    """A server's failure by its status and the short names that it gives it, without a word of its message."""
    status = getattr(error, "status_code", None)
    told = (getattr(error, name, None) for name in ("type", "code"))
    names = [name for name in dict.fromkeys(told) if isinstance(name, str) and _SHORT.fullmatch(name)]
    what = type(error).__name__ if status is None else f"status {status}"
    return f"{what} ({', '.join(names)})" if names else what


def usage_of(value: object) -> Usage:
    """Tokens as a server counts them; 0 where it does not."""
    return Usage(
        prompt_tokens=_count(_get(value, "prompt_tokens")), completion_tokens=_count(_get(value, "completion_tokens"))
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _text(content: object) -> str | None:
    """Text is a string, or a list of parts of which some are text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [_get(part, "text") for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if texts else None
    return None


def _get(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else None


def _shown(value: object) -> str:
    return " ".join(str(value).split())[:200]
