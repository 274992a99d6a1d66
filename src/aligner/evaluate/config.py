"""EvalConfig: everything that decides how correctors are measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from aligner.config import Config, expand
from aligner.correct.guards import GuardPolicy
from aligner.evaluate.formats import FORMATS, QUESTION, FormatName
from aligner.types import Sampling

# A name is also a file's name in the run directory.
_NAME = re.compile(r"\w[\w.+ -]{0,99}")
_AVERAGES = ("all", "seen", "unseen")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name) or name.endswith(" "):
        raise ValueError("a name has letters, digits, '.', '_', '+', '-' and spaces, begins with a letter or digit "
                         "and has at most 100 characters")  # fmt: skip
    if name.lower() in _AVERAGES:
        raise ValueError(f"'{name}' stands for an average in the table; choose another name")
    return name


def _check_dimensions(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names) or not all(n.strip() for n in names):
        raise ValueError("every dimension has a name, and no two the same")
    return names


Name = Annotated[str, AfterValidator(_check_name)]


class TaskSpec(Config):
    """Questions of one kind, and the dimensions in which answers to them are reported."""

    name: Name
    file: Path | None = None
    """JSONL, JSON list, CSV (each plain, .gz or .xz) or Parquet, or a directory of them; environment variables ($NAME)
    are filled in. With the format "rows" every row has an id and a question (text or messages), and may have a split
    and a reference."""
    hub: str | None = None
    """In place of `file`: a data set of the Hub, or a directory as `datasets` loads or saves it."""
    hub_config: str | None = None
    """The configuration of the Hub's data set, where it has several."""
    hub_split: str | None = None
    """The split of the Hub's data set; left out: the one that the format is usually read from."""
    hub_file: str | None = None
    """One file of the Hub's data set, read as `file` is: for sets that `datasets` cannot load as a whole."""
    revision: str | None = None
    """The revision of the Hub's data set."""
    format: FormatName = "rows"
    """How the questions are written down: as rows of one's own, or as a published set has them."""
    prompt: str | None = None
    """Text around each question (a chat's last turn), which stands for {question}; left out: the format's own."""
    split_by: str | None = None
    """A field of the rows by whose values the questions are reported apart, in place of `split`."""
    dimensions: Annotated[tuple[str, ...], AfterValidator(_check_dimensions)] = Field(min_length=1)
    """What answers are judged for; left out: those of the format, which "rows" has none of."""
    sample: int | None = Field(default=None, ge=1)
    """Questions that are used, drawn with the run's seed; left out: as the run's `sample` says."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """What a format says of itself, so that the saved configuration shows it."""
        named = values.get("format") if isinstance(values, Mapping) else None
        form = next((form for name, form in FORMATS.items() if name == named), None)
        if form is None:
            return values
        known = {"dimensions": form.dimensions, "prompt": form.prompt}
        return {**values, **{name: value for name, value in known.items() if values.get(name) is None}}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.file is None) == (self.hub is None):
            raise ValueError("give either 'file' (it lies here) or 'hub' (a data set of the Hub)")
        if self.hub is None and (self.hub_config or self.hub_split or self.hub_file or self.revision):
            raise ValueError("'hub_config', 'hub_split', 'hub_file' and 'revision' belong to 'hub'")
        if self.hub_file is not None and (self.hub_config or self.hub_split):
            raise ValueError("'hub_file' names one file; leave 'hub_config' and 'hub_split' out")
        if self.prompt is not None and QUESTION not in self.prompt:
            raise ValueError(f"'prompt' has no {QUESTION}; write it where the question goes")
        return self


class UpstreamSpec(Config):
    """A model whose answers are corrected: one that is run here, one behind an address, or its stored answers."""

    name: Name
    group: str = ""
    """Its kind, for the report."""
    seen: bool | None = None
    """Whether its answers were among those that the correctors were trained on."""
    model: str | None = None
    """A directory or a Hub id."""
    answers: Path | None = None
    """Stored answers: rows with id and answer, and with task where two tasks share an id; or AlpacaEval's outputs.
    Environment variables ($NAME) are filled in."""
    url: str | None = None
    """The address of an OpenAI-compatible API, such as http://localhost:8000/v1."""
    served_model: str | None = None
    """The model's name at that address."""
    api_key_env: str | None = None
    """The environment variable that holds the key for that address; the key itself is written nowhere."""
    concurrency: int = Field(default=8, ge=1)
    """Requests to that address at the same time."""
    timeout: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """Seconds without a sign of that address before a request is tried again."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """Laid over every request to that address; null leaves a field out."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(source is not None for source in (self.model, self.answers, self.url)) > 1:
            raise ValueError("give either 'model' (it answers now), 'url' (it answers there) or 'answers' (they are "
                             "stored), and no two of them")  # fmt: skip
        if (self.url is None) != (self.served_model is None):
            raise ValueError("'url' and 'served_model' (the model's name there) are given together")
        for name in ("api_key_env", "concurrency", "timeout", "fields"):
            if name in self.model_fields_set and self.url is None and getattr(self, name) != _default(self, name):
                raise ValueError(f"'{name}' goes with 'url', and there is none")
        return self


class CorrectorSpec(Config):
    """A corrector that is run here, its stored corrections, or a method by which upstreams revise their own answers."""

    name: Name
    aligner: str | None = None
    """A directory, a training run, or a Hub id."""
    corrections: Path | None = None
    """Stored corrections: rows with id, upstream and correction, and with task where two tasks share an id; or
    AlpacaEval's outputs. With {upstream} in the path there is a file for each, and rows need no upstream."""
    method: str | None = None
    """Critique and revision by prompts: a method of the package (cai, self-critique) or a YAML file of one's own."""
    prompt: str | None = None
    """The prompt format of a checkpoint without aligner.json: aligner-v1, aligner-repo or chat."""
    gate: Literal["off", "balanced", "strict"] = "off"
    """Let answers through untouched that one pass finds good enough, as the corrector was calibrated."""
    unit: Literal["answer", "sentence"] | None = None
    """What it has to correct at a time; one that was trained otherwise is refused. Left out: as it was trained."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(source is not None for source in (self.aligner, self.corrections, self.method)) != 1:
            raise ValueError("give either 'aligner' (it corrects now), 'corrections' (they are stored) or 'method' "
                             "(each upstream revises its own answers), and no two of them")  # fmt: skip
        for name in ("gate", "unit"):
            if getattr(self, name) != _default(self, name) and self.aligner is None:
                raise ValueError(f"'{name}' goes with 'aligner', and there is none")
        if self.unit == "sentence" and self.gate != "off":
            raise ValueError("the gate decides on whole answers; leave out 'gate', or 'unit: sentence'")
        return self


class JudgeSpec(Config):
    """Who judges."""

    call: str
    """`module:callable`; the callable is called with `arguments` and returns the judge."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    in_flight: int = Field(default=8, ge=1)
    """Questions that are before the judge at the same time."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        module, _, name = self.call.partition(":")
        if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
            raise ValueError("'call' is written module:callable, such as my_package.judges:make_judge")
        return self


class Decoding(Config):
    """How upstreams that are run here decode."""

    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """0 is greedy."""
    top_k: int = Field(default=0, ge=0)
    """Sample from the k likeliest tokens (0: all)."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the likeliest tokens that hold this much probability (1: all)."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest answer; left out: 512, or what a server behind an address takes."""
    seed: int = Field(default=0, ge=0)

    def to_sampling(self) -> Sampling:
        return Sampling(**self.model_dump())


class EvalSettings(Config):
    """Measure correctors: win rates over the upstreams' own answers, per task, dimension and split.

    CONFIG.yaml also says what is measured; these have no options:

      tasks:                                   # rows with id and question, and with split where there are several
        - {name: questions, file: questions.jsonl, dimensions: [helpful, harmless]}
        - {name: sums, format: gsm8k, file: gsm8k/test.jsonl}   # a published set as it is
      upstreams:                               # each has a model, stored answers, or an address
        - {name: small, model: runs/small/model, group: open, seen: true}
        - {name: api, answers: api-answers.jsonl, seen: false}
        - {name: served, url: "http://localhost:8000/v1", served_model: some-model, api_key_env: SOME_KEY}
      correctors:                              # each has an aligner, stored corrections, or a method of prompting
        - {name: mine, aligner: runs/mine}
        - {name: CAI, method: cai}
      judge: {call: "my_judges:make_judge", arguments: {}}
    """

    out: Path
    """The run directory: answers, corrections, verdicts, the table and the report."""
    sample: int | None = Field(default=None, ge=1)
    """Questions of each task that are used, drawn with the seed; left out: all of them."""
    sampling: Decoding = Decoding()
    batch_size: int = Field(default=16, ge=1)
    """Questions that an upstream answers at the same time."""
    max_rows: int = Field(default=64, ge=1)
    """Answers corrected at the same time."""
    cache_tokens: int | None = Field(default=None, ge=1)
    """Tokens that the corrector's cache may hold; lower it where memory runs out."""
    device: str | None = None
    """cpu, cuda, …; left out: the accelerator where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic; auto keeps what each checkpoint was saved in."""
    quantize: Literal["none", "int8", "int4"] = "none"
    """Keep the correctors' weights in 8 or 4 bits; takes the extra [quant]."""
    guards: GuardPolicy = GuardPolicy()
    """What each guard on corrections does when it fires."""
    resamples: int = Field(default=1000, ge=1)
    """Bootstrap samples of the questions, for the intervals."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Share of the bootstrap samples that an interval covers."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Of the drawn questions, the intervals and the examples."""
    partial: bool = False
    """Go on where stored answers lack some questions; those are listed, and stay unscored."""
    examples: int = Field(default=3, ge=0)
    """Gains, losses and other rows, each so many, kept for the report per corrector, upstream and task."""
    planted: int = Field(default=0, ge=0)
    """Answers of each task that are judged once more, with an order to the judge in them, to see whether it obeys; each
    costs what a correction costs. 0: none."""
    responses: Path = Path("runs/.cache/responses.sqlite")
    """What addresses answered, by the full request: runs that share the file ask, and pay, for nothing twice."""
    batch_out: Path | None = Field(default=None, exclude=True)
    """Write the judge's requests to this file, in OpenAI's batch format, and stop before judging; more than 50,000 or
    190 MB of them go to NAME-1.jsonl, NAME-2.jsonl and on."""
    batch_in: tuple[Path, ...] = Field(default=(), exclude=True)
    """Take the judge's replies from these files of batch answers; what they lack is unscored."""


class EvalConfig(EvalSettings):
    """All of an evaluation: its settings, and what is measured."""

    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    upstreams: tuple[UpstreamSpec, ...] = Field(min_length=1)
    correctors: tuple[CorrectorSpec, ...] = Field(min_length=1)
    judge: JudgeSpec | None = None
    """Left out where `run` is handed one."""

    @field_validator("out")
    @classmethod
    def _expand_out(cls, place: Path) -> Path:
        return expand(place, "out")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for what in ("tasks", "upstreams", "correctors"):
            twice = _twice(spec.name for spec in getattr(self, what))
            if twice is not None:
                raise ValueError(f"two of '{what}' are called '{twice}'; names tell them apart")
        return self


def _default(spec: Config, name: str) -> Any:
    return type(spec).model_fields[name].get_default(call_default_factory=True)


def _twice(names: Iterable[str]) -> str | None:
    # Some file systems do not tell capitals from small letters.
    met: set[str] = set()
    for name in names:
        if name.lower() in met:
            return name
        met.add(name.lower())
    return None
