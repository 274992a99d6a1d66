"""Command-line flags over a configuration: `--stage.setting value` for every field, and the help that lists them.

The values go to the configuration's own checks as text, so a flag and a YAML line are refused in the same words.
"""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aligner.config import Config, nearest
from aligner.errors import ConfigError


def apply_flags(cls: type[Config], values: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Lay `--name value …` over nested settings; a flag of a boolean needs no value, one of a list takes several,
    at once or one by one.

    Raises:
        ConfigError: an unknown flag (names the nearest), a missing value, or a word that belongs to no flag.
    """
    known = dict(_fields(cls))
    merged = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    rest = list(arguments)
    lists: dict[str, list[str]] = {}
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise ConfigError(f"'{flag}' belongs to no option; options are written --name value")
        flag, separator, inline = flag.partition("=")
        name = flag[2:].replace("-", "_")
        if name not in known:
            raise ConfigError(f"unknown option '{flag}'; {nearest(name, list(known)).replace('_', '-')}")
        given = [inline] if separator else _take(rest, known[name])
        if not given:
            raise ConfigError(f"the option '{flag}' needs a value")
        value = _value(given, known[name])
        if isinstance(value, list):
            value = lists[name] = [*lists.get(name, ()), *value]
        _set(merged, name.split("."), value)
    return merged


def flags_help(cls: type[Config]) -> str:
    """One paragraph per flag: its name, what it takes, what it does, its default."""
    lines = []
    for name, field in _fields(cls):
        takes = "" if _is(field, bool) else f" {_placeholder(field)}"
        default = "" if field.is_required() else f" [default: {_shown(field)}]"
        lines.append(f"  --{name.replace('_', '-')}{takes}")
        lines += textwrap.wrap(
            f"{field.description or ''}{default}".strip(), 92, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def _fields(cls: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in cls.model_fields.items():
        inner = [arg for arg in _parts(field.annotation) if isinstance(arg, type) and issubclass(arg, BaseModel)]
        if inner:
            yield from _fields(inner[0], f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _is(field: FieldInfo, kind: type) -> bool:
    return any(part is kind or get_origin(part) is kind for part in _parts(field.annotation))


def _take(rest: list[str], field: FieldInfo) -> list[str]:
    """The words that belong to a flag, taken off the arguments."""
    count = 0
    while count < len(rest) and not rest[count].startswith("--"):
        count += 1
    if _is(field, bool):
        count = 1 if count and rest[0].lower() in ("true", "false") else 0
    elif not _is(field, tuple):
        count = min(count, 1)
    taken = [rest.pop(0) for _ in range(count)]
    return taken or (["true"] if _is(field, bool) else [])


def _value(given: list[str], field: FieldInfo) -> Any:
    parts = _parts(field.annotation)
    if len(given) == 1 and given[0].lower() in ("none", "null") and type(None) in parts:
        return None
    words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    if _is(field, tuple) and (len(given) > 1 or given[0] not in words):
        return given
    return given[0]


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = values.get(part)
        values[part] = inner = dict(inner) if isinstance(inner, Mapping) else {}
        values = inner
    values[path[-1]] = value


def _placeholder(field: FieldInfo) -> str:
    for part in _parts(field.annotation):
        if part is type(None):
            continue
        if get_origin(part) is tuple:
            return f"{_word(get_args(part)[0])} …"
        if choices := get_args(part):
            return "|".join(map(str, choices))
        return _word(part)
    return "VALUE"


def _word(kind: Any) -> str:
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return {int: "N", float: "X", str: "TEXT"}.get(kind, "PATH")


def _shown(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if isinstance(default, tuple):
        return " ".join(map(str, default)) or "none"
    return "none" if default is None else str(default)
