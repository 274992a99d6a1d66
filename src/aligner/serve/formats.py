"""The response format of a request: what its answer must still be when it is corrected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aligner.correct.aligner import Aligner
from aligner.correct.guards import ResponseFormat, schema_in
from aligner.correct.keep_best import KeepBest
from aligner.correct.remote import RemoteAligner
from aligner.errors import ConfigError
from aligner.serve.wire import Json
from aligner.types import Corrector

_MOST = 2000  # schemas that a schema may have within it, those that it refers to counted each time; and its parts
_MIXED = 10  # parts that an entry counts for in a list of unlike values: each is compared with all before it
_NAMED = ("properties", "$defs", "definitions", "dependentSchemas", "dependencies")  # schemas by names, no keywords
_VALUES = ("enum", "const", "default", "examples")
# A client's pattern can take for ever on a short text, and whoever else waits for the gateway waits for it too.
_UNBOUNDED = ("pattern", "patternProperties", "$dynamicRef", "$recursiveRef")
# Within a schema they change what it means, or what its references lead to.
_ROOT_ONLY = ("$id", "id", "$schema")


def wanted_format(request: Json) -> Json | None:
    """What `response_format`, or `text.format` of the Responses API, asks for, in the former's shape; None: text.

    Raises:
        ConfigError: it is none, or checking an answer against its schema could take long.
    """
    text = request.get("text")
    inner = text.get("format") if isinstance(text, Mapping) else None
    if isinstance(inner, Mapping) and inner.get("type") == "json_schema":
        inner = {"type": "json_schema", "json_schema": {"schema": inner.get("schema")}}
    given = request.get("response_format")
    form: Any = given if given is not None else inner
    if isinstance(form, Mapping):
        schema, _ = schema_in(form)
        try:
            _count(schema)
            _size(schema, schema, (), {})
        except RecursionError:
            raise _long() from None
    return dict(form) if ResponseFormat.parse(form) is not None else None


def keeps_formats(corrector: Corrector) -> bool:
    """Whether a corrector can be told what its corrections must be."""
    return isinstance(corrector, Aligner | RemoteAligner | KeepBest)


def _count(schema: Any) -> None:
    """Refuse a schema that is long as it stands: whether it is one at all is checked part by part, lists by pairs."""
    count, todo = 0, [schema]
    while todo:
        part = todo.pop()
        if isinstance(part, Mapping):
            count += 1 + sum(isinstance(value, bool) for value in part.values())
            todo += part.values()
        elif isinstance(part, list):
            alike = any(all(isinstance(value, kind) for value in part) for kind in (str, Mapping))
            count += len(part) * (1 if alike else _MIXED)
            todo += part
        if count > _MOST:
            raise _long()


def _size(schema: Any, root: Any, within: tuple[int, ...], known: dict[int, int]) -> int:
    """Schemas that checking one value may go through."""
    if not isinstance(schema, Mapping):
        return 1
    if id(schema) in within:  # it holds itself
        raise _long()
    if id(schema) not in known:
        count = 1
        for part in _parts(schema, root):
            count += _size(part, root, (*within, id(schema)), known)
            if count > _MOST:
                raise _long()
        known[id(schema)] = count
    return known[id(schema)]


def _parts(schema: Mapping[str, Any], root: Any) -> Iterator[Any]:
    for key, value in schema.items():
        if key in _UNBOUNDED or (schema is not root and _renames(key, value)):
            raise _long()
        if key == "$ref":
            yield _found(root, value)
        elif key in ("$defs", "definitions"):
            continue  # counted where they are referred to
        elif key in _NAMED and isinstance(value, Mapping):
            yield from value.values()
        elif isinstance(value, Mapping) and key not in _VALUES:
            yield value
        elif isinstance(value, list) and key not in _VALUES:
            yield from (part for part in value if isinstance(part, Mapping))


def _renames(key: str, value: Any) -> bool:
    return key in _ROOT_ONLY and isinstance(value, str)


def _found(root: Any, reference: Any) -> Any:
    """What a reference within a schema leads to."""
    found = root
    place, *names = str(reference).split("/")
    if place != "#" or "%" in str(reference):  # an escaped name is another one
        raise _long()
    for name in (name.replace("~1", "/").replace("~0", "~") for name in names):
        if not isinstance(found, Mapping) or name not in found:
            raise _long()
        found = found[name]
        if isinstance(found, Mapping) and any(_renames(*item) for item in found.items()):
            raise _long()
    return found


def _long() -> ConfigError:
    return ConfigError("response_format has a schema with patterns, with references to itself or elsewhere, with an "
                       "$id or $schema within it, or too large to be checked quickly; leave them out")  # fmt: skip
