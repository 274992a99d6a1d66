"""The base of every configuration: frozen, checked, YAML in and out; an unknown key names the nearest known one."""

from __future__ import annotations

import os
import types
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from rapidfuzz import fuzz, process

from aligner.errors import ConfigError, DataError
from aligner.rows import write_atomic


class Config(BaseModel):
    """One verb's settings. Subclasses add fields; nothing is ever changed in place."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _unquoted(cls, values: Any) -> Any:
        """YAML reads a bare `off` as false and `on` as true; a setting that is one of some words means the word."""
        if not isinstance(values, dict):
            return values
        return {
            name: _word(cls.model_fields[name].annotation, value) if name in cls.model_fields else value
            for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "configuration") -> Self:
        """Build and check.

        Raises:
            ConfigError: names the setting, what is wrong with it and, for an unknown key, the nearest known one.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as e:
            raise ConfigError(f"{where}: {_explain(cls, e)}") from None
        except ConfigError as e:  # a value of ours that checks itself, such as Sampling
            raise ConfigError(f"{where}: {e}") from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read one YAML file; an empty one leaves every setting at its default.

        Raises:
            ConfigError: the file is missing or no mapping, or a setting is wrong.
        """
        return cls.from_dict(read_yaml(path), where=str(path))

    def to_yaml(self) -> str:
        """The resolved settings; reading them back gives an equal configuration."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def save(self, path: str | Path) -> None:
        """Write `to_yaml` to a file.

        Raises:
            StorageError: it cannot be written.
        """
        write_atomic(path, self.to_yaml())


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings of one YAML file, not yet checked; an empty one has none.

    Raises:
        ConfigError: the file is missing, not YAML or no mapping.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a YAML configuration") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read ({e}); give the path of a YAML configuration") from None
    except (yaml.YAMLError, ValueError, RecursionError) as e:  # a date out of range is a ValueError
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(e).split())})") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings as `name: value` lines, found {type(values).__name__}")
    return values


def expand(place: str | Path, setting: str = "file") -> Path:
    """A path with its environment variables ($NAME) and `~` filled in.

    Raises:
        DataError: a variable is not set.
    """
    found = os.path.expandvars(str(place))
    if "$" in found:
        raise DataError(f"{setting}: '{place}' uses an environment variable that is not set; set it or write the path")
    return Path(found).expanduser()


def nearest(name: str, known: list[str]) -> str:
    """`, did you mean 'x'?` for the most similar known name, or the list of known names."""
    # The whole name first: by its parts alone 'fil' is nearer to 'hub_file' than to 'file'.
    match = process.extractOne(name, known, scorer=fuzz.ratio, score_cutoff=75) if known else None
    match = match or (process.extractOne(name, known, score_cutoff=60) if known else None)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(known) or 'none'}"


def _explain(cls: type[BaseModel], error: ValidationError) -> str:
    """What to put right first: an unknown name comes before a missing one, which it often is."""
    branches: dict[tuple[int | str, ...], list[_Fault]] = defaultdict(list)
    for found in error.errors():
        fault = _locate(cls, found)
        branches[fault.branch].append(fault)
    faults = min(branches.values(), key=_misfit)
    fault = next((f for f in faults if f.unknown), faults[0])
    if fault.unknown:
        return f"unknown setting '{fault.name}'; {nearest(fault.name.rsplit('.', 1)[-1], fault.known)}"
    if fault.kind == "missing":
        return f"the setting '{fault.name}' is missing"
    message = fault.message.removeprefix("Value error, ")
    given = repr(fault.given)
    given = "" if isinstance(fault.given, dict) else f" (given: {given[:60]}{'…' * (len(given) > 60)})"
    return f"'{fault.name}': {message}{given}" if fault.name else message


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    """One thing that pydantic found wrong. `branch` is the way to the member of a union that was tried, () outside."""

    kind: str
    message: str
    given: Any
    name: str
    known: list[str]
    branch: tuple[int | str, ...]
    at_union: bool

    @property
    def unknown(self) -> bool:
        return self.kind in ("extra_forbidden", "unexpected_keyword_argument")


def _misfit(faults: list[_Fault]) -> tuple[bool, int]:
    """How ill the values fit the member of a union that has these faults; a wrong `kind: ...` weighs most."""
    return any(f.at_union for f in faults), sum(100 if f.kind == "literal_error" else 1 for f in faults)


def _locate(cls: type[BaseModel], found: Any) -> _Fault:
    """Follow a fault's location through the annotations; the tags of union members are no part of a setting's name."""
    owner: Any = cls
    here: Any = cls
    name: list[str] = []
    branch: tuple[int | str, ...] = ()
    for i, part in enumerate(found["loc"]):
        members = _members(here)
        if len(members) > 1:
            here = next((m for m in members if _is_tag(m, part)), None)
            branch = found["loc"][: i + 1]
            continue
        name.append(str(part))
        member = members[0]
        if fields := _fields(member):
            owner, here = member, fields.get(str(part))
        else:
            here = next((a for a in reversed(get_args(member)) if a is not Ellipsis), None)
    return _Fault(
        kind=found["type"],
        message=found["msg"],
        given=found["input"],
        name=".".join(name),
        known=list(_fields(owner)),
        branch=branch,
        at_union=bool(branch) and branch == found["loc"],
    )


def _members(annotation: Any) -> list[Any]:
    """The types an annotation allows, None and what Annotated adds left out."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [m for a in get_args(annotation) if a is not type(None) for m in _members(a)]
    return [annotation]


def _fields(kind: Any) -> dict[str, Any]:
    """The settings of a configuration or a dataclass, and their annotations."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return get_type_hints(kind) if isinstance(kind, type) and is_dataclass(kind) else {}


def _word(annotation: Any, value: Any) -> Any:
    """`off` or `on` in place of a truth value, where one of these words is allowed and a truth value is not."""
    if not isinstance(value, bool):
        return value
    members = _members(annotation)
    words = {word for m in members if get_origin(m) is Literal for word in get_args(m)}
    word = "on" if value else "off"
    return word if word in words and bool not in members and value not in words else value


def _is_tag(member: Any, tag: int | str) -> bool:
    """pydantic names a union's member by its class or by the value of its `kind: Literal[...]`."""
    literals = [get_args(a) for a in _fields(member).values() if get_origin(a) is Literal]
    return getattr(member, "__name__", None) == tag or any(tag in values for values in literals)
