"""ServeConfig: everything that decides how the gateway answers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from aligner.config import Config
from aligner.correct.gate import GateMode
from aligner.correct.guards import GuardPolicy
from aligner.correct.loading import check_options
from aligner.correct.remote import Sends
from aligner.generate.hf import Dtype, Quantize


class ServeConfig(Config):
    """Put an OpenAI-compatible address in front of any upstream: every answer comes back corrected.

    Clients are pointed at http://HOST:PORT/v1; nothing else changes for them. Keys are read from environment variables
    or files, never from options, which every user of the machine could read.
    """

    aligner: str
    """The corrector: a directory, a training run or a Hub id; or the address of a server that runs it, such as
    http://localhost:8001/v1."""
    upstream: tuple[str, ...] = Field(min_length=1)
    """Who answers: URL for all models, or NAME=URL for the model NAME and those called NAME/…; may be given again."""
    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 lets other machines in."""
    port: int = Field(default=8080, ge=0, le=65535)
    """The port to listen at; 0 takes a free one."""
    mode: Literal["correct", "shadow"] = "correct"
    """shadow: return the original, and record under --out what would have changed."""
    share: float = Field(default=1.0, ge=0, le=1)
    """Share of the requests that are corrected, drawn by the seed and the request."""
    seed: int = 0
    """Of the share."""
    out: Path | None = None
    """The run directory of shadow mode; it will hold questions and answers."""
    on_failure: Literal["error", "pass-through"] = "error"
    """When the corrector fails: answer 502, or send the original with a header that says so."""
    strict: bool = False
    """Refuse (413) an answer that does not fit the corrector's context, in place of keeping it."""
    client_keys_env: str | None = None
    """The environment variable with the keys that clients may send, separated by commas."""
    client_keys_file: Path | None = None
    """A file with such keys, one a line."""
    upstream_key_env: tuple[str, ...] = ()
    """The environment variable with the key of the upstream without a name, or NAME=VARIABLE for a named one; left
    out, the client's own key passes on."""
    aligner_key_env: str | None = None
    """The environment variable with the key for the corrector's server."""
    allow_host: tuple[str, ...] = ()
    """More names by which this gateway may be called, and hosts whose web pages may call it; with client keys any
    page may that sends one."""
    max_requests: int = Field(default=256, ge=1)
    """Requests under way at the same time; more are refused with 429."""
    max_waiting: int = Field(default=1024, ge=1)
    """Answers before the corrector at the same time; more are refused with 429."""
    body_limit: int = Field(default=8 << 20, ge=1)
    """Bytes that a request may have."""
    answer_limit: int = Field(default=16 << 20, ge=1)
    """Bytes that an answer to be corrected may have."""
    upstream_timeout: float = Field(default=300.0, gt=0, allow_inf_nan=False)
    """Seconds that an upstream may be silent."""
    correction_timeout: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Seconds that a correction may take; of a stream, that the corrector may be silent."""
    tokenizer: str | None = None
    """For a corrector behind an address: the directory with its tokenizer and aligner.json."""
    served_aligner: str | None = None
    """For a corrector behind an address: its name there; left out, the only model that is served."""
    aligner_takes: Sends = "ids"
    """For a corrector behind an address: whether its server takes token ids (vLLM, llama.cpp) or text only; text that
    holds the name of a special token is refused then."""
    gate: GateMode = "off"
    """Let answers through untouched that one pass finds good enough, as calibrated at the end of training or by
    `aligner calibrate`; a request may ask for another."""
    scorer: str | None = None
    """Who ranks several corrections of an answer: self (the corrector, by how likely it is to leave each as it is), a
    reward model (a directory or a Hub id), or `module:callable`, which returns a scorer or a judge."""
    best_of: int = Field(default=1, ge=1)
    """Corrections of each answer, of which `scorer` keeps the best or the answer itself; a request may ask for another
    number."""
    margin: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """How much more than the answer a correction must score to be kept, in the scorer's units."""
    max_best_of: int = Field(default=8, ge=1)
    """Corrections that a request may ask for."""
    prompt: str | None = None
    """The prompt format of a checkpoint without aligner.json: aligner-v1, aligner-repo or chat."""
    max_rows: int = Field(default=64, ge=1)
    """Answers corrected at the same time."""
    cache_tokens: int | None = Field(default=None, ge=1)
    """Tokens that the corrector's cache may hold; lower it where memory runs out."""
    speculate: bool = True
    """Verify each answer in place of writing it token by token: faster, and the corrections are the same."""
    sentences: bool = False
    """Show corrected sentences of a stream while the upstream still writes; for a corrector trained with
    unit=sentence."""
    device: str | None = None
    """cpu, cuda, …; left out: the accelerator where there is one."""
    dtype: Dtype = "auto"
    """Arithmetic; auto keeps what the checkpoint was saved in."""
    quantize: Quantize = "none"
    """Keep the corrector's weights in 8 or 4 bits, for less memory; takes the extra [quant]."""
    guards: GuardPolicy = GuardPolicy()
    """What each guard does when it fires."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.mode == "shadow") != (self.out is not None):
            raise ValueError("'mode' shadow and 'out' (where it records) are given together")
        check_options(self, self.aligner)
        if self.sentences and self.best_of > 1:
            raise ValueError("'sentences' shows each one when it is corrected, and 'best_of' waits for the whole "
                             "answers; leave one out")  # fmt: skip
        if self.best_of > 1 and self.scorer is None:
            raise ValueError("'best_of' (2 or more) needs a 'scorer', which ranks the corrections")
        if self.margin and self.scorer is None:
            raise ValueError("'margin' is for a 'scorer', which ranks the corrections; give both")
        if self.best_of > self.max_best_of:
            raise ValueError(f"'best_of' is {self.best_of} and 'max_best_of' {self.max_best_of}; raise the latter")
        return self
