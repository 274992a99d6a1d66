"""The fingerprint of a model's directory: what it notices, and what it does not care about."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from aligner.errors import CheckpointError
from aligner.evaluate.fingerprint import fingerprint

_LARGE = 5_000_000


@pytest.fixture
def model(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(bytes(1000))
    (place / "large.safetensors").write_bytes(bytes(_LARGE))
    return place


def test_a_copy_with_other_times_is_the_same(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "copied"
    shutil.copytree(model, copy)
    for file in copy.iterdir():
        os.utime(file, (1, 1))
    assert fingerprint(copy) == fingerprint(model)


def test_notes_optimizers_and_folders_beside_it_are_no_part_of_it(model: Path) -> None:
    before = fingerprint(model)
    (model / "README.md").write_text("A note.")
    (model / "optimizer.pt").write_bytes(b"state")
    (model / "checkpoint-1").mkdir()
    (model / "checkpoint-1" / "config.json").write_text("{}")
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "merges.txt", "chat_template.jinja", "new.safetensors"]
)
def test_another_file_is_another_model(model: Path, name: str) -> None:
    before = fingerprint(model)
    (model / name).write_text('{"a": 1}')
    assert fingerprint(model) != before


@pytest.mark.parametrize("at", [0, _LARGE // 3, _LARGE // 2, _LARGE - 30_000], ids=["head", "third", "half", "tail"])
def test_one_trained_layer_is_noticed_wherever_it_lies(model: Path, at: int) -> None:
    before = fingerprint(model)
    with (model / "large.safetensors").open("r+b") as file:
        file.seek(at)
        file.write(b"\x01" * 30_000)
    assert fingerprint(model) != before


def test_a_longer_file_and_a_renamed_one_are_noticed(model: Path) -> None:
    before = fingerprint(model)
    with (model / "large.safetensors").open("ab") as file:
        file.write(b"\0")
    longer = fingerprint(model)
    (model / "model.safetensors").rename(model / "renamed.safetensors")
    assert len({before, longer, fingerprint(model)}) == 3


def test_weights_that_cannot_be_read_are_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    (model / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"large\.safetensors: cannot be read \(Permission denied\)"):
        fingerprint(model)
