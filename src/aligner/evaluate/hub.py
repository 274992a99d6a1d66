"""Sets of the Hub: loaded by `datasets`, or one file of the set's repository in the form in which it lies there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aligner.errors import DataError
from aligner.evaluate.config import TaskSpec
from aligner.evaluate.formats import FORMATS

# What the libraries say, in lower case, and what to do about it; the first that fits. Their exceptions' types are lost
# on the way: `datasets` raises anew whatever failed.
_LOGIN = "check its name; a private set needs a login (hf auth login, or HF_TOKEN)"
_ASK = "ask for access on the set's page and log in (hf auth login, or HF_TOKEN)"
_NETWORK = "check the network, or give a local 'file'"
_ADVICE = (
    ("repository not found", _LOGIN),
    ("doesn't exist on the hub", _LOGIN),
    ("gated", _ASK),
    ("restricted", _ASK),
    ("scripts are no longer supported", "name one of its files as 'hub_file', at 'revision: refs/convert/parquet' "
                                        "where it has none itself, or give a local 'file'"),
    ("revision '", "check 'revision'"),
    ("revision not found", "check 'revision'"),
    ("config name is missing", "give one of them as 'hub_config'"),
    ("builderconfig", "choose another 'hub_config'"),
    ("unknown split", "choose another 'hub_split'"),
    ("entry not found", "check 'hub_file' and 'revision'"),
    ("couldn't reach", _NETWORK),
    ("local cache", _NETWORK),
)  # fmt: skip
_OTHERWISE = "check its name, 'hub_config', 'hub_split' and the network, or give a local 'file'"


def hub_split(spec: TaskSpec) -> str:
    """The split that is read: the task's, else the one that its format is usually read from."""
    return spec.hub_split or ("test" if spec.format == "rows" else FORMATS[spec.format].hub_split)


def loaded(where: str, spec: TaskSpec) -> Iterator[Any]:
    """The rows of a set as `datasets` loads it, by the set's id or its directory."""
    from datasets import load_dataset

    yield from load_dataset(where, name=spec.hub_config, split=hub_split(spec), revision=spec.revision)


def downloaded(spec: TaskSpec) -> Path:
    """Where the task's `hub_file` lies once it is fetched into the Hub's cache.

    Raises:
        DataError: it is not there, is not ours to have, or the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(spec.hub), str(spec.hub_file), repo_type="dataset", revision=spec.revision))
    except Exception as e:
        raise DataError(told(f"{spec.hub}, {spec.hub_file}", e)) from e


def told(where: str, error: Exception) -> str:
    """What a library failed with, as one line that says what to do."""
    root: BaseException = error
    while type(error).__name__ == "DatasetGenerationError" and root.__cause__ is not None:
        root = root.__cause__  # this wrapper says nothing
    said = " ".join(str(root).split())
    advice = next((advice for sign, advice in _ADVICE if sign in said.lower()), _OTHERWISE)
    said = said.split(" Example of usage:")[0][:300].rstrip(". ")
    return f"{where}: the data set cannot be loaded ({type(root).__name__}: {said}); {advice}"
