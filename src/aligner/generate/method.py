"""Method: how a model is prompted to criticise and revise an answer of its own, read from a YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from aligner.config import Config, expand, nearest
from aligner.errors import ConfigError
from aligner.prompts import question_text
from aligner.rows import storage_errors
from aligner.types import Chat, content_hash

_FIELD = re.compile(r"\{(question|answer|critique)\}")
_SUFFIX = ".yaml"
_ALL = "all"


def _check_critique(text: str) -> str:
    _check_fields(text, ("question", "answer"))
    if "{critique}" in text:
        raise ValueError("it has {critique}, which is what it asks for; only 'revise' can show it")
    return text


def _check_revise(text: str) -> str:
    return _check_fields(text, ("question", "answer", "critique"))


def _check_fields(text: str, names: tuple[str, ...]) -> str:
    lacking = [f"{{{name}}}" for name in names if f"{{{name}}}" not in text]
    if lacking:
        raise ValueError(f"it lacks {', '.join(lacking)}; write it where that text goes")
    return text


def _check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as e:
        raise ValueError(f"it is no regular expression ({e})") from None
    return text


def _check_name(name: str) -> str:
    if not name.strip() or name == _ALL:
        raise ValueError(f"a principle needs a name, and not '{_ALL}', which stands for all of them in results")
    return name


Pattern = Annotated[str, AfterValidator(_check_pattern)]


class Principle(Config):
    """One thing that an answer is criticised for. Templates hold {question}, {answer} and {critique}."""

    name: Annotated[str, AfterValidator(_check_name)]
    dimension: str = Field(min_length=1)
    """What a judge calls it; left out: the name."""
    critique: Annotated[str, AfterValidator(_check_critique)]
    """What the model is asked about its answer."""
    passes: Pattern | None = None
    """A regular expression: a critique that begins so leaves the answer alone. Left out: every answer is revised."""
    fails: Pattern | None = None
    """A regular expression: with it, a critique that begins like neither says nothing, and the answer is left alone.
    Left out: whatever does not pass fails."""
    critiques: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Sentences that stand for {critique} in place of the model's own words, one of them drawn per answer: for models
    that can judge and rewrite and not explain."""
    revise: Annotated[str, AfterValidator(_check_revise)]
    """What the model is asked once the answer has failed."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """The dimension, so that the saved method shows it."""
        if isinstance(values, Mapping) and "name" in values and values.get("dimension") is None:
            return {**values, "dimension": values["name"]}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fails is not None and self.passes is None:
            raise ValueError("'fails' goes with 'passes'; without it every answer is revised")
        return self

    def passed(self, critique: str) -> bool | None:
        """Whether a critique lets the answer stand; None: it does not say."""
        said = critique.lstrip()
        if self.passes is None:
            return None
        if re.match(self.passes, said):
            return True
        return False if self.fails is None or re.match(self.fails, said) else None


class Method(Config):
    """Critique and revision by prompts: which principles, and in which words."""

    name: str = Field(min_length=1)
    draw: Literal["one", "all"] = "all"
    """Principles that an answer is held against: one, drawn from the seed, the question and the answer; or all."""
    revise_by: Literal["first", "all"] = "all"
    """Where an answer fails several: {critique} is the first one's critique, or all of theirs, one a paragraph. The
    template is the first one's."""
    turns: Literal["all", "last"] = "all"
    """What {question} is in a conversation of several turns: all of them, written out, or the last one alone."""
    principles: tuple[Principle, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [principle.name for principle in self.principles]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two principles are called '{twice}'; names tell them apart")
        return self

    def question(self, chat: Chat) -> str:
        """What stands for {question}."""
        return chat[-1].content if self.turns == "last" else question_text(chat)

    def drawn(self, question: str, answer: str, seed: int) -> tuple[Principle, ...]:
        """The principles that an answer is held against. They depend on nothing else, so any order of work will do."""
        if self.draw == "all":
            return self.principles
        return (self.principles[_number(len(self.principles), seed, "principle", question, answer)],)

    def critique_of(self, principle: Principle, said: str, question: str, answer: str, seed: int) -> str:
        """What stands for {critique}: what the model said, or the sentence drawn for it."""
        if principle.critiques is None:
            return said
        return principle.critiques[_number(len(principle.critiques), seed, principle.name, question, answer)]


def fill(template: str, **texts: str) -> str:
    """A template with its fields filled in, in one pass: braces in the texts, even {answer}, stay as they are."""
    return _FIELD.sub(lambda found: texts.get(found[1], found[0]), template)


def load_method(place: str | Path) -> Method:
    """A method by the name of a shipped one, or from a YAML file; environment variables in the path are filled in.

    Raises:
        ConfigError: there is no such method or file, or a setting of it is wrong.
        DataError: an environment variable is not set.
    """
    known = shipped()
    if str(place) in known:
        return Method.from_yaml(known[str(place)])
    path = expand(place, "method")
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"no method is called '{place}'; {nearest(str(place), list(known))} (or give the path of a "
                          "YAML file)")  # fmt: skip
    return Method.from_yaml(path)


def shipped() -> dict[str, Path]:
    """The files of the methods that come with the package, by name."""
    folder = resources.files("aligner.generate").joinpath("methods")
    files = sorted(Path(str(path)) for path in folder.iterdir() if path.name.endswith(_SUFFIX))
    return {path.name.removesuffix(_SUFFIX): path for path in files}


def copy_methods(directory: str | Path) -> list[Path]:
    """Write the package's methods into a directory, to be changed there; files that exist stay as they are.

    Raises:
        StorageError: it cannot be written.
    """
    target = Path(directory)
    written = []
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for source in shipped().values():
            path = target / source.name
            if not path.exists():
                path.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
                written.append(path)
    return written


def _number(below: int, seed: int, *parts: str) -> int:
    return int(content_hash(str(seed), *parts), 16) % below
