"""The OpenAPI document of the gateway's own endpoints. Bodies are the upstream's; only what is ours is spelled out."""

from __future__ import annotations

from typing import Any, get_args

from aligner import __version__
from aligner.correct.gate import GateMode
from aligner.serve.options import FIELDS

_ERROR = {"$ref": "#/components/schemas/Error"}
_ERRORS = {
    "400": "malformed JSON, a wrong option or no messages",
    "401": "no or a wrong key",
    "403": "a page or a host that may not call",
    "404": "the model is not known",
    "408": "the body stopped",
    "413": "the body, or with --strict the answer, is too long",
    "429": "too many requests",
    "502": "the upstream or the corrector failed",
    "504": "the upstream was silent",
}
_MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {
            "role": {"type": "string"},
            "content": {
                "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}, {"type": "null"}]
            },
        },
        "required": ["role"],
    },
}
# What a JSON schema says is checked by its own rules; those of its fields that decide how are spelled out.
_SCHEMA = {"type": ["object", "boolean"], "properties": {"$schema": {"type": "string"}, "type": {}, "enum": {}}}
_JSON_SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "schema": _SCHEMA}}
_KINDS = {"enum": ["text", "json_object", "json_schema"]}
_FORMAT = {
    "type": "object",
    "properties": {"type": _KINDS, "json_schema": _JSON_SCHEMA},
    "required": ["type"],
    "description": "what an answer must still be when it is corrected",
}
_TEXT_FORMAT = {**_FORMAT, "properties": {"type": _KINDS, "name": {"type": "string"}, "schema": _SCHEMA}}


def document() -> dict[str, Any]:
    """OpenAPI 3.1, as JSON."""
    text = {"anyOf": [{"type": "string"}, {"type": "array"}]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "aligner gateway", "version": __version__},
        "paths": {
            "/v1/chat/completions": _corrected(
                "Answer a chat, corrected", {"messages": _MESSAGES, "response_format": _FORMAT}, ["messages"]
            ),
            "/v1/completions": _corrected(
                "Complete a prompt, corrected", {"prompt": text, "response_format": _FORMAT}, []
            ),
            "/v1/responses": _corrected(
                "Answer an input, corrected",
                {"input": text, "text": {"type": "object", "properties": {"format": _TEXT_FORMAT}}},
                [],
            ),
            "/v1/models": _told("The models of all upstreams", "application/json", {"type": "object"}),
            "/health": _told("Whether the gateway runs", "application/json", {"type": "object"}, errors=()),
            "/metrics": _told("Counters for Prometheus", "text/plain", {"type": "string"}, errors=("401", "403")),
        },
        "components": {
            "schemas": {"Error": _error(), "Options": _options()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _corrected(summary: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "model": {"type": "string"},
            "stream": {"type": "boolean"},
            "aligner": {"$ref": "#/components/schemas/Options"},
            **properties,
        },
        "required": ["model", *required],
    }
    header = {"name": "X-Aligner", "in": "header", "schema": {"type": "string", "examples": ["off", "return"]}}
    answers = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}}}
    return {
        "post": {
            "summary": summary,
            "parameters": [header],
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": {"200": {"description": "the upstream's answer, corrected", "content": answers}, **_errors()},
        }
    }


def _told(summary: str, content_type: str, schema: dict[str, Any], errors: tuple[str, ...] | None = None) -> Any:
    told = {"description": summary, "content": {content_type: {"schema": schema}}}
    return {"get": {"summary": summary, "responses": {"200": told, **_errors(errors)}}}


def _errors(statuses: tuple[str, ...] | None = None) -> dict[str, Any]:
    chosen = ("401", "403", "429", "502", "504", "400", "404", "408", "413") if statuses is None else statuses
    content = {"application/json": {"schema": _ERROR}}
    found: dict[str, Any] = {status: {"description": _ERRORS[status], "content": content} for status in chosen}
    if statuses is None:
        found["default"] = {"description": "what the upstream says"}
    return found


def _error() -> dict[str, Any]:
    fields = {"message": {"type": "string"}, "type": {"type": "string"}, "code": {"type": ["string", "null"]}}
    inner = {"type": "object", "properties": fields, "required": ["message", "type", "code"]}
    return {"type": "object", "properties": {"error": inner}, "required": ["error"]}


def _options() -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "off": {"type": "boolean", "description": "the upstream's answer as it is"},
            "strength": {"const": 0, "description": "of a dial, which no corrector has yet"},
            "gate": {"enum": list(get_args(GateMode)), "description": "what lets answers through untouched"},
            "best_of": {"type": "integer", "minimum": 1, "description": "corrections to choose from; needs a scorer"},
            "return": {
                "description": "fields of the response extension",
                "anyOf": [{"type": "boolean"}, {"type": "array", "items": {"enum": list(FIELDS)}}],
            },
        },
    }
