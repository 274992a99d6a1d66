"""JSON that must stay JSON: answers that are, and requests with a response format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from aligner.errors import ConfigError

_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n[ \t]*```\s*\Z", re.DOTALL | re.IGNORECASE)
# How such a text begins; the block's first line may be unfinished.
_BEGINS = re.compile(
    r"\s*(?:\{\s*(?:[\"}]|\Z)|\[\s*(?:[\[{\]\"\d\-tfn]|\Z)|`{1,3}\Z|```(?i:j|js|jso|json)?[ \t]*(?:\n|\Z))"
)
_NOTHING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseFormat:
    """What a request wants its answer to be: a JSON object, or JSON that a schema accepts."""

    kind: Literal["json_object", "json_schema"]
    schema: Any = None

    @classmethod
    def parse(cls, value: Mapping[str, Any] | None) -> Self | None:
        """Read `response_format` of an OpenAI request; None where it asks for plain text.

        A `json_object` may have a `schema` of its own, by which llama.cpp goes.

        Raises:
            ConfigError: it has no known type, or its schema is none.
        """
        if value is None:
            return None
        kind = value.get("type") if isinstance(value, Mapping) else None
        if kind == "text":
            return None
        if kind not in ("json_object", "json_schema"):
            raise ConfigError(
                f"response_format has the type {kind!r}; it must be an object with the type text, json_object or "
                "json_schema"
            )
        schema, place = schema_in(value)
        if kind == "json_object" and schema in (None, {}):
            return cls(kind="json_object")
        if not isinstance(schema, Mapping | bool):
            raise ConfigError(f"response_format has no schema; put it at {place}")
        _check(schema, place)
        return cls(kind="json_schema", schema=schema)

    def accepts(self, text: str) -> bool:
        """Whether a text is what was asked for, with nothing around it."""
        value = _json(text)
        if self.kind == "json_object":
            return isinstance(value, dict)
        return value is not _NOTHING and _valid(value, self.schema)


def schema_in(form: Mapping[str, Any]) -> tuple[Any, str]:
    """The schema of a `response_format`, None where it has none, and the place where it stands."""
    if form.get("type") == "json_object":
        return form.get("schema"), "schema"
    inner = form.get("json_schema")
    return inner.get("schema") if isinstance(inner, Mapping) else None, "json_schema.schema"


def breaks_format(answer: str, correction: str, wanted: ResponseFormat | None = None) -> bool:
    """Whether the correction is not the JSON that the request wants, or no JSON where the answer was an object or list.

    An answer that is one fenced block of JSON may be corrected to such a block or to bare JSON.
    """
    if correction == answer:
        return False
    if wanted is not None:
        return not wanted.accepts(correction)
    if isinstance(_json(answer), dict | list):
        return not isinstance(_json(correction), dict | list)
    return is_json(answer) and not is_json(correction)


def is_json(text: str) -> bool:
    """Whether a text is an object or a list in JSON, bare or as one fenced block, and nothing else."""
    block = _FENCED.match(text)
    return isinstance(_json(text if block is None else block[1]), dict | list)


def may_become_json(text: str) -> bool:
    """Whether a text that is still being written begins as one that `is_json` does."""
    return _BEGINS.match(text) is not None


def _json(text: str) -> Any:
    """The value that a text is in strict JSON, `_NOTHING` where it is none."""
    if text.lstrip()[:1] not in tuple('{["-0123456789tfn'):
        return _NOTHING
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NOTHING


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check(schema: Any, place: str) -> None:
    from jsonschema.exceptions import SchemaError

    try:
        _dialect(schema).check_schema(schema)
    except (SchemaError, RecursionError) as e:
        reason = e.message if isinstance(e, SchemaError) else "nested too deeply"
        raise ConfigError(f"response_format has a schema that is none ({reason}); correct {place}") from None


def _valid(value: Any, schema: Any) -> bool:
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # An empty registry: a reference that leads elsewhere is never fetched.
    try:
        return bool(_dialect(schema)(schema, registry=Registry()).is_valid(value))
    except (Unresolvable, RecursionError, ValueError):
        return False


def _dialect(schema: Any) -> Any:
    """What checks by a schema.

    Raises:
        ConfigError: its `$schema` is no address.
    """
    from jsonschema.validators import Draft202012Validator, validator_for

    try:
        return validator_for(schema, default=Draft202012Validator)
    except (AttributeError, TypeError, ValueError):
        raise ConfigError("response_format has a schema whose $schema is no address; correct it, or leave it "
                          "out") from None  # fmt: skip
