"""Flags over settings: every form, every kind, every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from aligner.config import Config
from aligner.errors import ConfigError
from aligner.flags import apply_flags, flags_help


class Inner(Config):
    """Nested."""

    rate: float = 0.1
    """How fast."""
    on: bool = False


class Outer(Config):
    """Settings of a test."""

    files: tuple[Path, ...]
    """Which."""
    size_limit: int = 3
    kind: Literal["a", "b"] = "a"
    targets: tuple[str, ...] | Literal["all"] = "all"
    note: str | None = "n"
    pair: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (0.0, 1.0)
    inner: Inner = Inner()
    maybe: Inner | None = None


def parsed(*arguments: str, **values: object) -> Outer:
    return Outer.from_dict(apply_flags(Outer, {"files": ["f"], **values}, arguments))


def test_every_kind_of_value() -> None:
    made = parsed(
        "--files", "x", "y", "--size-limit", "5", "--kind=b", "--inner.rate", "1e-3", "--inner.on", "--maybe.rate", "2"
    )  # fmt: skip
    assert made.files == (Path("x"), Path("y"))
    assert (made.size_limit, made.kind) == (5, "b")
    assert made.inner == Inner(rate=0.001, on=True)
    assert made.maybe == Inner(rate=2.0)


def test_flags_lie_over_nested_values_and_leave_the_rest() -> None:
    base = {"inner": {"rate": 0.5, "on": True}, "size_limit": 9}
    made = parsed("--inner.rate", "0.7", **base)
    assert made.inner == Inner(rate=0.7, on=True)
    assert made.size_limit == 9
    assert base["inner"] == {"rate": 0.5, "on": True}, "what was passed in is not changed"


def test_booleans_take_a_value_or_none() -> None:
    assert parsed("--inner.on").inner.on is True
    assert parsed("--inner.on", "false").inner.on is False
    assert parsed("--inner.on", "--size-limit", "4").size_limit == 4


def test_none_and_unions() -> None:
    assert parsed("--note", "none").note is None
    assert parsed("--note", "some words").note == "some words"
    assert parsed("--targets", "all").targets == "all"
    assert parsed("--targets", "q_proj", "v_proj").targets == ("q_proj", "v_proj")
    assert parsed("--targets", "q_proj").targets == parsed("--targets=q_proj").targets == ("q_proj",)
    assert parsed("--targets", "q_proj", "--targets", "v_proj").targets == ("q_proj", "v_proj")


def test_negative_numbers_are_values() -> None:
    assert parsed("--inner.rate", "-1").inner.rate == -1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size-limits", "3"], "unknown option '--size-limits'; did you mean 'size-limit'"),
        (["--inner.rat", "3"], "did you mean 'inner.rate'"),
        (["--files"], "'--files' needs a value"),
        (["--size-limit"], "needs a value"),
        (["word"], "'word' belongs to no option"),
        (["--size-limit", "3", "4"], "'4' belongs to no option"),
        (["--kind", "c"], "'kind'"),
        (["--size-limit", "many"], "'size_limit'"),
    ],
)
def test_refusals(arguments, message) -> None:
    with pytest.raises(ConfigError) as e:
        parsed(*arguments)
    assert message in str(e.value)


def test_help_names_every_flag_with_its_words_and_default() -> None:
    text = flags_help(Outer)
    assert "--files PATH …" in text
    assert "--size-limit N\n      [default: 3]" in text
    assert "--kind a|b" in text
    assert "--pair X …" in text, "what is said of a number's range does not make it a path"
    assert "--inner.rate X\n      How fast. [default: 0.1]" in text
    assert "--inner.on\n" in text
    assert "--maybe.rate X" in text
    assert "--note TEXT\n      [default: n]" in text


def test_a_list_can_be_given_one_by_one() -> None:
    class Many(Config):
        names: tuple[str, ...] = ()
        one: str = ""

    once = apply_flags(Many, {"names": ["base"]}, ["--names", "a", "b"])
    apart = apply_flags(Many, {"names": ["base"]}, ["--names", "a", "--one", "x", "--names=b", "--one", "y"])
    assert once == {"names": ["a", "b"]}
    assert apart == {"names": ["a", "b"], "one": "y"}
