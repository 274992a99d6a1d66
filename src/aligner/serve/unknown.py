"""Unknown: an upstream's own words that it has no such model, and behind them the models that there are."""

from __future__ import annotations

from aligner.errors import RequestError
from aligner.serve import wire
from aligner.serve.wire import Json

_MOST = 300  # characters that are told of an error that is no JSON


def speaks_of_models(data: bytes) -> bool:
    """Whether `with_known` has something to add to the body of an upstream's 404."""
    return with_known(data, "?") is not None


def with_known(data: bytes, known: str) -> Json | None:
    """The body of an upstream's 404 with the `known` models in its message; None where it is to stay as it is.

    It stays where it speaks of something else than a model, and where it is JSON of a shape that is not OpenAI's. One
    that is no JSON at all is put in that shape, its words in the message.
    """
    if not known:
        return None
    try:
        body = wire.read(data)
    except RequestError:
        said = " ".join(data.decode("utf-8", "replace").split())[:_MOST]
        told = f"the upstream answered 404{f' ({said})' if said else ''}; known models: {known}"
        return wire.error_body(RequestError(told, status=404, code="upstream_not_found"))
    error = body.get("error", body if body.get("object") == "error" else None)  # vLLM's stood at the top once
    if isinstance(error, str):  # Ollama's
        return {**body, "error": _told(error, known)} if "model" in error.lower() else None
    if not isinstance(error, dict) or not isinstance(message := error.get("message"), str):
        return None
    if error.get("code") != "model_not_found" and error.get("param") != "model" and "model" not in message.lower():
        return None
    error["message"] = _told(message, known)
    return body


def _told(message: str, known: str) -> str:
    return f"{message.rstrip(' .')}; known: {known}"
