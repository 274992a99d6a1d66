"""Configurations: what is refused and in which words, and YAML there and back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, field_validator, model_validator

from aligner.config import Config, nearest, read_yaml
from aligner.correct.guards import GuardPolicy
from aligner.errors import ConfigError, StorageError
from aligner.types import Sampling


class Local(Config):
    kind: Literal["local"] = "local"
    path: str
    device: str = "cpu"


class Remote(Config):
    kind: Literal["remote"] = "remote"
    model: str
    base_url: str = "http://localhost"


class Optimizer(Config):
    learning_rate: float = 1e-3
    """Step size."""
    name: Literal["adamw", "sgd"] = "adamw"

    @field_validator("learning_rate")
    @classmethod
    def _positive(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("must be above 0")
        return value


class Settings(Config):
    seed: int = 0
    data: Path | None = None
    optimizer: Optimizer = Optimizer()
    upstream: Local | Remote | None = None
    tagged: Annotated[Local | Remote, Field(discriminator="kind")] | None = None
    tagged_list: list[Annotated[Local | Remote, Field(discriminator="kind")]] = Field(default_factory=list)
    upstreams: list[Local | Remote] = Field(default_factory=list)
    pair: tuple[Optimizer, ...] = ()
    by_name: dict[str, Optimizer] = Field(default_factory=dict)
    text_or_local: str | Local = ""
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _whole(self) -> Settings:
        if self.seed == 13:
            raise ValueError("seed 13 needs data")
        return self


class Required(Config):
    model_name: str
    data: str


def refusal(cls: type[Config] = Settings, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        cls.from_dict(values, where="here")
    message = str(caught.value)
    assert message.startswith("here: ")
    assert "\n" not in message
    return message.removeprefix("here: ")


LOCAL = {"path": "m", "divice": "x"}
UNKNOWN = "; did you mean 'device'?"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sead": 1}, "unknown setting 'sead'; did you mean 'seed'?"),
        ({"optimizer": {"learning_rat": 1}}, "unknown setting 'optimizer.learning_rat'; did you mean 'learning_rate'?"),
        ({"optimizer": {"zzz": 1}}, "unknown setting 'optimizer.zzz'; known: learning_rate, name"),
        ({"pair": [{}, {"nam": 1}]}, "unknown setting 'pair.1.nam'; did you mean 'name'?"),
        ({"by_name": {"a": {"nam": 1}}}, "unknown setting 'by_name.a.nam'; did you mean 'name'?"),
        ({"upstream": LOCAL}, "unknown setting 'upstream.divice'" + UNKNOWN),
        ({"upstreams": [{"model": "m"}, LOCAL]}, "unknown setting 'upstreams.1.divice'" + UNKNOWN),
        ({"tagged": LOCAL | {"kind": "local"}}, "unknown setting 'tagged.divice'" + UNKNOWN),
        ({"tagged_list": [LOCAL | {"kind": "local"}]}, "unknown setting 'tagged_list.0.divice'" + UNKNOWN),
        ({"text_or_local": LOCAL}, "unknown setting 'text_or_local.divice'" + UNKNOWN),
        (
            {"upstream": {"kind": "remote", "model": "m", "bas_url": "x"}},
            "unknown setting 'upstream.bas_url'; did you mean 'base_url'?",
        ),
        # A wrong kind would explain fewer faults away than the names of the kind that was asked for.
        (
            {"upstream": {"kind": "local", "model": "m", "base_url": "x"}},
            "unknown setting 'upstream.model'; known: kind, path, device",
        ),
        ({"sampling": {"temperatur": 1}}, "unknown setting 'sampling.temperatur'; did you mean 'temperature'?"),
    ],
)
def test_unknown_setting_names_the_nearest(values: dict[str, Any], message: str) -> None:
    assert refusal(**values) == message


def test_misspelt_required_setting_is_named_before_the_missing_one() -> None:
    assert refusal(Required, model_nam="x", data="y") == "unknown setting 'model_nam'; did you mean 'model_name'?"
    assert refusal(Required, data="y") == "the setting 'model_name' is missing"
    assert refusal(upstream={"kind": "remote"}) == "the setting 'upstream.model' is missing"
    assert refusal(optimizer=None).startswith("'optimizer': Input should be a valid dictionary")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"seed": "x"},
            "'seed': Input should be a valid integer, unable to parse string as an integer (given: 'x')",
        ),
        ({"seed": 1.5}, "'seed': Input should be a valid integer, got a number with a fractional part (given: 1.5)"),
        ({"optimizer": {"name": "adam"}}, "'optimizer.name': Input should be 'adamw' or 'sgd' (given: 'adam')"),
        ({"optimizer": {"learning_rate": 0}}, "'optimizer.learning_rate': must be above 0 (given: 0)"),
        ({"text_or_local": 3}, "'text_or_local': Input should be a valid string (given: 3)"),
        ({"seed": 13}, "seed 13 needs data"),
        ({"sampling": {"top_p": 2}}, "top_p is 2.0; it must be above 0 and at most 1 (off)"),
        (
            {"tagged": {"kind": "cloud"}},
            "'tagged': Input tag 'cloud' found using 'kind' does not match any of the expected tags: 'local', 'remote'",
        ),
    ],
)
def test_wrong_value(values: dict[str, Any], message: str) -> None:
    assert refusal(**values) == message


def test_long_values_are_cut_in_messages() -> None:
    assert refusal(seed="x" * 500).endswith(f"(given: '{'x' * 59}…)")


def test_key_that_is_no_text() -> None:
    with pytest.raises(ConfigError, match=r"'1': Keys should be strings \(given: 1\)"):
        Settings.from_dict({1: 2})  # type: ignore[dict-item]


def test_frozen() -> None:
    config = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.optimizer.learning_rate = 1.0  # type: ignore[misc]


def test_attribute_docstrings_become_help() -> None:
    assert Optimizer.model_fields["learning_rate"].description == "Step size."


FULL = Settings(
    seed=7,
    data=Path("daten/ü.jsonl"),
    optimizer=Optimizer(learning_rate=math.inf, name="sgd"),
    upstream=Remote(model="no"),
    tagged=Local(path="1e-4"),
    upstreams=[Local(path="2024-01-01"), Remote(model="\ud800: #")],
    pair=(Optimizer(), Optimizer(learning_rate=1e-5)),
    by_name={"null": Optimizer()},
    text_or_local=Local(path="line one\nline two\n"),
    sampling=Sampling(temperature=0.7, max_new_tokens=3),
)


@pytest.mark.parametrize("config", [Settings(), FULL])
def test_yaml_round_trip(tmp_path: Path, config: Settings) -> None:
    config.save(tmp_path / "c.yaml")
    again = Settings.from_yaml(tmp_path / "c.yaml")
    assert again == config
    assert again.to_yaml() == config.to_yaml()


def test_yaml_keeps_order_and_is_plain() -> None:
    assert Optimizer().to_yaml() == "learning_rate: 0.001\nname: adamw\n"
    assert Local(path="ü").to_yaml() == "kind: local\npath: ü\ndevice: cpu\n"


def test_save_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        Settings().save(tmp_path / "none" / "c.yaml")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.yaml"


def test_numbers_that_yaml_takes_for_text(file: Path) -> None:
    file.write_text("optimizer:\n  learning_rate: 1e-4\n")
    assert Settings.from_yaml(file).optimizer.learning_rate == 1e-4


@pytest.mark.parametrize("text", ["", "# nothing but comments\n", "---\n", "\ufeff# mark\n"])
def test_empty_file_means_defaults(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    assert Settings.from_yaml(str(file)) == Settings()
    with pytest.raises(ConfigError, match="the setting 'model_name' is missing"):
        Required.from_yaml(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n", "expected settings as `name: value` lines, found list"),
        (b"seed", "expected settings as `name: value` lines, found str"),
        (b"seed: [1\n", "not valid YAML ("),
        (b"seed: 1\n  x: 2\n", "not valid YAML ("),
        (b"seed: 2024-13-45\n", "not valid YAML (month must be in 1..12)"),
        (b"a: " + b"[" * 100_000, "not valid YAML ("),
        (b"seed: !!python/object:os.system x\n", "not valid YAML ("),
        (b"seed: \xff\n", "cannot be read ("),
        (b"sed: 1\n", "unknown setting 'sed'; did you mean 'seed'?"),
    ],
)
def test_bad_file(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Settings.from_yaml(file)
    assert str(caught.value).startswith(f"{file}: {message}")
    assert "\n" not in str(caught.value)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: no such file; give the path of a YAML configuration"):
        Settings.from_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read .*Is a directory"):
        Settings.from_yaml(tmp_path)


def test_read_yaml_does_not_check_the_settings(file: Path) -> None:
    file.write_text("unheard_of: [1, {a: null}]\n")
    assert read_yaml(str(file)) == {"unheard_of": [1, {"a": None}]}


def test_nearest() -> None:
    assert nearest("lerning_rate", ["learning_rate", "seed"]) == "did you mean 'learning_rate'?"
    assert nearest("qqq", ["seed", "data"]) == "known: seed, data"
    assert nearest("x", []) == "known: none"


class Words(Config):
    gate: Literal["off", "balanced"] = "balanced"
    either: Literal["on", "off"] | None = None
    plain: bool = True
    both: bool | Literal["off"] = True


def test_a_bare_off_is_a_word_where_words_are_allowed(tmp_path) -> None:
    """YAML reads it as false."""
    file = tmp_path / "words.yaml"
    file.write_text("gate: off\neither: on\nplain: off\nboth: off\n", encoding="utf-8")
    found = Words.from_yaml(file)
    assert (found.gate, found.either, found.plain, found.both) == ("off", "on", False, False)
    file.write_text(found.to_yaml(), encoding="utf-8")
    assert Words.from_yaml(file) == found
    with pytest.raises(ConfigError, match="'gate'"):
        Words.from_dict({"gate": True})


def test_guards_are_switched_off_by_a_bare_word(tmp_path) -> None:
    file = tmp_path / "guards.yaml"
    file.write_text("cut: off\n", encoding="utf-8")
    assert GuardPolicy.from_yaml(file).cut == "off"
