"""Base: what a run starts from, a checkpoint or nothing, with its tokenizer and what it was made from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from accelerate import PartialState

from aligner.correct.card import AlignerCard
from aligner.errors import CheckpointError, ConfigError, DataError
from aligner.generate.hf import default_device, load_causal_lm, load_tokenizer, model_context, model_vocabulary
from aligner.rows import storage_errors, write_atomic
from aligner.runs import (
    Lineage,
    RunDir,
    ancestor_of_file,
    ancestor_of_model,
    lineage_from_json,
    lineage_to_json,
    merge_lineage,
)
from aligner.train.config import RunSettings
from aligner.train.scratch import build_model, train_tokenizer

_LINEAGE = "lineage.json"


class Base:
    """What `config` names as its start: `model`, or `scratch` with a tokenizer of its own."""

    def __init__(self, config: RunSettings, run_dir: RunDir, state: PartialState) -> None:
        self._config, self._run_dir, self._state = config, run_dir, state

    def lineage(self, files: Iterable[Path]) -> Lineage:
        """The files of data, the model to start from, and what that was made from.

        Raises:
            DataError, CheckpointError: a file or the model's record cannot be read.
        """
        own = [ancestor_of_file("data", path) for path in files]
        name = self._config.model
        if name is None:
            return merge_lineage(own)
        return merge_lineage(own, [ancestor_of_model("base", name)], _made_from(name))

    def tokenizer(self, texts: Callable[[int], Iterator[str]], given: str | None = None) -> Any:
        """The checkpoint's tokenizer; from scratch, the one `given` or a new one, kept in the run directory.

        Args:
            texts: called with a number of rows, gives the texts of the first ones.

        Raises:
            CheckpointError: there is no tokenizer where one is named.
            DataError: there are no texts.
        """
        config = self._config
        if config.model is not None:
            return _padded(load_tokenizer(config.model))
        assert config.scratch is not None
        path = self._run_dir.path / "tokenizer"
        with self._state.main_process_first():
            if not path.is_dir():
                if given is not None:
                    tokenizer = _padded(_load_bare(given))
                else:
                    rows = config.scratch.tokenizer_rows
                    tokenizer = train_tokenizer(texts(rows), config.scratch.vocabulary)
                part = path.with_suffix(".part")
                with storage_errors(path):
                    shutil.rmtree(part, ignore_errors=True)
                    tokenizer.save_pretrained(part)
                    part.replace(path)
        return _load_bare(path)

    def model(self, tokenizer: Any, trained: Path | None) -> Any:
        """The model to train, in fp32 and ready for it; `trained` is what an earlier stage left."""
        if trained is not None:
            return load_causal_lm(trained, dtype="float32")[0].train()
        config = self._config
        if config.scratch is not None:
            model = build_model(config.scratch, tokenizer, config.max_length, config.seed)
            return model.to(default_device())
        assert config.model is not None
        return load_causal_lm(config.model, dtype="float32")[0].train()


def check_base(config: RunSettings, tokenizer: str | None = None) -> Any:
    """Find out, without loading a model, whether what a run starts from is there and fits; gives its tokenizer.

    Raises:
        CheckpointError: there is no model or tokenizer, these do not fit, or what it was made from cannot be read.
        ConfigError: `max_length` is more than the model takes.
    """
    if tokenizer is not None:
        _load_bare(tokenizer)
    if config.model is None:
        return None
    own = _padded(load_tokenizer(config.model))
    _check_ids(own, config.model)
    context = model_context(config.model)
    # Positions that the model does not have are an index error deep in a library, or nonsense learned.
    if config.max_length > context:
        raise ConfigError(
            f"'max_length' is {config.max_length}, but {config.model} takes {context} tokens at most; "
            f"set max_length to {context} or less"
        )
    _made_from(config.model)
    return own


def _check_ids(tokenizer: Any, name: str) -> None:
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"{name}: its tokenizer has neither a pad nor an end token; set eos_token in its "
                              "tokenizer_config.json")  # fmt: skip
    size = model_vocabulary(name)
    # Of all special tokens those that rows hold: a text model may have a tokenizer with an image's, which none has.
    used = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    if size is not None and (beyond := [t for t in used if t is not None and t >= size]):
        token = tokenizer.convert_ids_to_tokens(beyond[0])
        raise CheckpointError(f"{name}: the model has embeddings for {size} ids, and {token} of its tokenizer is id "
                              f"{beyond[0]}; enlarge the embeddings and save the model, or take out the "
                              "token")  # fmt: skip


def save_lineage(directory: Path, lineage: Lineage) -> None:
    """Write what a model was made from beside its weights."""
    write_atomic(directory / _LINEAGE, json.dumps({"lineage": lineage_to_json(lineage)}, indent=2) + "\n")


def load_lineage(name: str | Path) -> Lineage:
    """Read what `save_lineage` wrote; nothing for a directory without it, and for a Hub id.

    Raises:
        CheckpointError: it is there and cannot be understood.
    """
    path = Path(name) / _LINEAGE
    if not path.is_file():
        return ()
    try:
        return lineage_from_json(json.loads(path.read_text(encoding="utf-8"))["lineage"])
    except (OSError, ValueError, TypeError, KeyError, DataError) as e:
        raise CheckpointError(f"{path}: cannot be read ({e}); train the model again or remove the file") from None


def _made_from(name: str) -> Lineage:
    """What a model was made from, as a corrector's card or the record beside its weights says."""
    parent = AlignerCard.load(name)
    return parent.lineage if parent is not None else load_lineage(name)


def _load_bare(name: str | Path) -> Any:
    """A tokenizer, of a model or alone in its directory."""
    path = Path(name)
    if not (path / "tokenizer.json").is_file() or (path / "config.json").is_file():
        return load_tokenizer(name)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path))
    except Exception as e:
        raise CheckpointError(f"{name}: the tokenizer cannot be loaded ({str(e).splitlines()[0]})") from e


def _padded(tokenizer: Any) -> Any:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
