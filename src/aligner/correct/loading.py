"""Loading a corrector by what names it: a directory, a run or a Hub id is run here, an address is asked."""

from __future__ import annotations

from typing import Any

from aligner.config import Config
from aligner.correct.aligner import Aligner
from aligner.correct.guards import GuardPolicy
from aligner.correct.remote import RemoteAligner, Sends
from aligner.errors import ConfigError
from aligner.generate.hf import Dtype
from aligner.types import Sampling

_HERE = ("gate", "best_of", "scorer", "quantize", "device", "dtype", "cache_tokens", "speculate")
_THERE = ("tokenizer", "served_aligner", "aligner_takes", "aligner_key_env")


def check_options(config: Config, aligner: str) -> None:
    """Raises ValueError where an option is given that a corrector of this name has no use for."""
    remote = is_address(aligner)
    for name in _HERE if remote else _THERE:
        if getattr(config, name) != type(config).model_fields[name].default:
            where = "a corrector that runs here, and not an address" if remote else "a corrector behind an address"
            raise ValueError(f"'{name}' is for {where}, and the corrector is {aligner}; leave it out")


def is_address(name: str) -> bool:
    """Whether a corrector's name is an address."""
    return name.startswith(("http://", "https://"))


def load_corrector(
    name: str,
    *,
    tokenizer: str | None = None,
    served: str | None = None,
    sends: Sends = "ids",
    api_key_env: str | None = None,
    quotes: bool = False,
    prompt: str | None = None,
    sampling: Sampling | None = None,
    max_rows: int = 64,
    guards: GuardPolicy | None = None,
    device: str | None = None,
    dtype: Dtype = "auto",
    **options: Any,
) -> Aligner | RemoteAligner:
    """Load a corrector, or reach one. `options` go to `Aligner.from_pretrained`.

    Raises:
        CheckpointError: no model, tokenizer or prompt format is there.
        ConfigError: an address without `tokenizer`.
    """
    if not is_address(name):
        return Aligner.from_pretrained(
            name,
            prompt=prompt,
            device=device,
            dtype=dtype,
            sampling=sampling,
            max_rows=max_rows,
            guards=guards,
            **options,
        )
    if tokenizer is None:
        raise ConfigError(f"{name}: a corrector behind an address needs --tokenizer, the directory with its tokenizer, "
                          "config.json and aligner.json")  # fmt: skip
    return RemoteAligner.from_url(
        name, tokenizer, prompt=prompt, model=served, sends=sends, api_key_env=api_key_env, concurrency=max_rows,
        quotes=quotes, sampling=sampling, guards=guards,
    )  # fmt: skip
