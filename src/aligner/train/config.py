"""TrainConfig and SftConfig: everything that decides how a corrector, or any other model, is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from aligner.config import Config, expand

Beta = Annotated[float, Field(ge=0, lt=1)]


class Schedule(Config):
    """How one stage is optimised. The defaults are the published ones (AdamW, cosine, 3 % warm-up of the rate)."""

    epochs: float = Field(default=3.0, gt=0, allow_inf_nan=False)
    """Passes over the stage's rows; not used where `steps` is given."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps, whatever the number of rows."""
    batch_size: int = Field(default=4, ge=1)
    """Rows per device and forward pass."""
    accumulation: int = Field(default=8, ge=1)
    """Forward passes per optimiser step."""
    learning_rate: float = Field(default=2e-5, gt=0, allow_inf_nan=False)
    scheduler: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_share: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    max_grad_norm: float = Field(default=1.0, gt=0)


class Warmup(Schedule):
    """The first stage: identity rows Q-A-A, made from a share of the triplets."""

    epochs: float = Field(default=1.0, gt=0)
    share: float = Field(default=0.2, ge=0, le=1)
    """Share of the training triplets whose identity rows are used (0 leaves the stage out; published best: 0.2)."""


class Residual(Schedule):
    """The second stage: the triplets."""

    edit_weight: float = Field(default=1.0, ge=1, allow_inf_nan=False)
    """Weight in the loss, at the start, of the tokens in which a correction departs from its answer; it falls evenly to
    1, that of all others. Above 1, a short training repairs more; the whole text's likelihood is what 1 maximises."""


class Scratch(Config):
    """A new model and its own byte-level BPE tokenizer, both made from the training data alone."""

    architecture: Literal["llama", "qwen2"] = "llama"
    layers: int = Field(default=4, ge=1)
    hidden: int = Field(default=192, ge=8)
    heads: int = Field(default=4, ge=1)
    kv_heads: int | None = Field(default=None, ge=1)
    feed_forward: int | None = Field(default=None, ge=8)
    """Inner width; left out: 8/3 of `hidden`, rounded up to a multiple of 16."""
    vocabulary: int = Field(default=4096, ge=300)
    """Tokens, the 256 bytes and the special ones included; fewer where the texts hold fewer merges."""
    tokenizer_rows: int = Field(default=100_000, ge=1)
    """Rows that the tokenizer is trained on at most, the first ones of the files."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden ({self.hidden}) must be an even multiple of heads ({self.heads})")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        return self


class Lora(Config):
    """Train low-rank adapters instead of all weights; they are merged into the checkpoint at the end of each stage."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class RunSettings(Config):
    """What every training run decides."""

    data: tuple[str, ...] = Field(min_length=1)
    """Files of rows; `*` patterns and environment variables ($NAME) are expanded."""
    out: Path
    """The run directory; its `model/` is what was trained."""
    model: str | None = None
    """Start from this checkpoint: a directory or a Hub id."""
    scratch: Scratch | None = None
    """Start from nothing: a new model and tokenizer. Exactly one of `model` and `scratch` is given."""
    max_length: int = Field(default=2048, ge=16)
    """Tokens of prompt and completion. Longer rows lose the oldest turns of their questions, and are dropped where that
    is not enough; both are counted, and no text is cut."""
    held_out: float = Field(default=0.02, ge=0, lt=1)
    """Share of the questions that is kept out of training and measured."""
    held_out_rows: int = Field(default=2000, ge=1)
    """Held-out rows that are measured at most."""
    lora: Lora | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the forward pass; weights and optimiser stay in fp32. auto: bf16 where the hardware has it."""
    gradient_checkpointing: bool = False
    """Compute activations twice to save memory."""
    save_every: int = Field(default=500, ge=1)
    """Steps between full-state checkpoints; the last two are kept while a stage runs."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Steps between measurements of the held-out loss; left out: at the start and the end of each stage."""
    keep_checkpoints: bool = False
    """Keep each stage's checkpoints and model when the run is done."""
    seed: int = Field(default=42, ge=0, lt=2**32)

    @field_validator("out")
    @classmethod
    def _expand_out(cls, place: Path) -> Path:
        return expand(place, "out")

    @field_validator("model")
    @classmethod
    def _expand_model(cls, name: str | None) -> str | None:
        return str(expand(name, "model")) if name is not None and name.startswith(("~", "$")) else name

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if (self.model is None) == (self.scratch is None):
            raise ValueError("give either 'model' (a checkpoint to start from) or 'scratch' (a new model), not both")
        return self


class TrainConfig(RunSettings):
    """Train a corrector: warm-up on identity rows, then residual training on triplets."""

    data: tuple[str, ...] = Field(min_length=1)
    """Files of triplets; `*` patterns and environment variables ($NAME) are expanded."""
    out: Path
    """The run directory; its `model/` is the corrector."""
    mix: tuple[str, ...] = ()
    """Files of other rows to train on together with the triplets, so that the model keeps or gains what they say:
    {"text": …}, or {"prompt": …, "completion": …}. The residual stage has all of them, the warm-up its `share`."""
    prompt: Literal["chat", "aligner-v1", "aligner-repo"] | None = None
    """How question and answer become a prompt; left out: as the corrector to start from has it, else chat."""
    instruction: str | None = None
    """The chat format's system message; left out: the package's own, and none for a model from scratch."""
    request: str | None = None
    """The chat format's turn after the answer; left out: the package's own, and an empty one for a model from
    scratch."""
    unit: Literal["answer", "sentence"] | None = None
    """Left out: as the corrector to start from has it, else whole answers. sentence: learn to correct the next sentence
    after what was corrected before it, on rows made by aligning each triplet; for `aligner serve --sentences`."""
    samples: int = Field(default=20, ge=0)
    """Held-out rows per source that are corrected at the end and shown in the report."""
    gate: bool = True
    """Calibrate the gate on the held-out rows at the end: each is corrected once. Not for sentences."""
    warmup: Warmup = Warmup()
    residual: Residual = Residual()

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        for name in ("instruction", "request"):
            if getattr(self, name) is not None and self.prompt not in (None, "chat"):
                raise ValueError(f"'{name}' belongs to the chat format; '{self.prompt}' has its own words")
        return self


class SftConfig(RunSettings):
    """Train a language model on rows of any kind: a base model on text, or an upstream on prompts and answers."""

    data: tuple[str, ...] = Field(min_length=1)
    """Files of rows, {"text": …} or {"prompt": text or messages, "completion": …}; `*` patterns and environment
    variables ($NAME) are expanded."""
    tokenizer: str | None = None
    """With `scratch`: take the tokenizer of this directory or Hub id, so that several models share one."""
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _check_tokenizer(self) -> Self:
        if self.tokenizer is not None and self.scratch is None:
            raise ValueError("'tokenizer' belongs to 'scratch'; a model that exists comes with its own")
        return self
