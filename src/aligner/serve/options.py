"""Options: what one request says about its own correction, in the body's `aligner` object or the header X-Aligner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args

from aligner.config import nearest
from aligner.correct.gate import GateMode
from aligner.errors import RequestError

HEADER = b"x-aligner"
NAMES = ("off", "gate", "strength", "best_of", "return")
FIELDS = ("original", "diff", "reason", "flags", "gate", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`off`: not corrected. `gate` and `best_of`: None leaves them to the gateway. `returns`: the fields of the
    response extension that are asked for."""

    off: bool = False
    gate: GateMode | None = None
    best_of: int | None = None
    returns: frozenset[str] = frozenset()

    @classmethod
    def read(cls, value: Any) -> Self:
        """From the body's object, such as {"off": true} or {"return": ["original", "diff"]}.

        Raises:
            RequestError: 400, an option is unknown or has no such value.
        """
        if not isinstance(value, Mapping):
            raise _bad(f"'aligner' is a JSON {type(value).__name__}; send an object with {', '.join(NAMES)}")
        for name in value:
            if name not in NAMES:
                raise _bad(f"'aligner' has no option '{str(name)[:100]}'; {nearest(str(name)[:100], list(NAMES))}")
        off = value.get("off", False)
        if not isinstance(off, bool):
            raise _bad("'aligner.off' is true or false")
        strength = value.get("strength", 0)
        if isinstance(strength, bool) or not isinstance(strength, int | float) or strength != 0:
            raise _bad("'aligner.strength' other than 0 needs a corrector with a dial, which this one has not; "
                       "leave it out")  # fmt: skip
        gate, best_of = value.get("gate"), value.get("best_of")
        if "gate" in value and gate not in get_args(GateMode):
            raise _bad(f"'aligner.gate' is {', '.join(get_args(GateMode))}")
        if "best_of" in value and (isinstance(best_of, bool) or not isinstance(best_of, int) or best_of < 1):
            raise _bad("'aligner.best_of' is a whole number, 1 or more")
        return cls(off=off, gate=gate, best_of=best_of, returns=_fields(value.get("return", False)))

    @classmethod
    def read_header(cls, text: str) -> Self:
        """From the header's text, such as `off`, `return` or `return=original,diff; strength=0`.

        Raises:
            RequestError: as `read`.
        """
        value: dict[str, Any] = {}
        for item in filter(None, (part.strip() for part in text.split(";"))):
            name, separator, given = (part.strip() for part in item.partition("="))
            value[name] = _word(name, given) if separator else True
        return cls.read(value)


def _word(name: str, given: str) -> Any:
    if given.lower() in ("true", "false"):
        return given.lower() == "true"
    if name == "return":
        return [part.strip() for part in given.split(",")]
    try:
        return int(given)
    except ValueError:
        pass
    try:
        return float(given)
    except ValueError:
        return given


def _fields(value: Any) -> frozenset[str]:
    if isinstance(value, bool):
        return frozenset(FIELDS if value else ())
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(name, str) and name in FIELDS for name in value):
        raise _bad(f"'aligner.return' is true, or a list of {', '.join(FIELDS)}")
    return frozenset(value)


def _bad(message: str) -> RequestError:
    return RequestError(message, status=400, code="invalid_option")
