"""A fingerprint of a model's directory, cheap enough to take whenever a run begins or goes on."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aligner.errors import CheckpointError
from aligner.rows import file_hash

_WEIGHTS = (".safetensors", ".bin")
# What else a model or its tokenizer is read from; not the notes, logs and optimizers that may lie beside it.
_OTHERS = (".json", ".jinja", ".model", ".txt")
_TRAINING = ("trainer_state", "training_args", "optimizer", "scheduler", "rng_state", "scaler")
# Training may leave whole layers as they are, so a file's ends alone do not tell it: these pieces lie closer together
# than the tensors of a large model are long. Times are left out, because a copied directory has others.
_PIECE, _PIECES = 1 << 13, 256


def fingerprint(directory: Path, without: str = "") -> str:
    """SHA-256 of the names, the sizes and evenly spread pieces of a model's weights, and of its small files whole.

    Args:
        without: the name of a file that does not count.

    Raises:
        CheckpointError, DataError: a file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        files = sorted(path for path in directory.iterdir() if path.is_file())
    except OSError as e:
        raise CheckpointError(f"{directory}: cannot be read ({e.strerror or e})") from None
    for file in files:
        if file.suffix in (*_WEIGHTS, *_OTHERS) and file.name != without and not file.name.startswith(_TRAINING):
            content = _sampled(file) if file.suffix in _WEIGHTS else file_hash(file)
            digest.update(f"{file.name}:{content}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _sampled(path: Path) -> str:
    """SHA-256 of a file's size and of pieces of it, the first and the last among them; of a small file it is all."""
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        digest.update(f"{size}:".encode())
        with path.open("rb") as file:
            if size <= _PIECE * _PIECES:
                digest.update(file.read())
            else:
                for i in range(_PIECES):
                    file.seek(i * (size - _PIECE) // (_PIECES - 1))
                    digest.update(file.read(_PIECE))
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read ({e.strerror or e}); check the model's directory") from None
    return digest.hexdigest()
