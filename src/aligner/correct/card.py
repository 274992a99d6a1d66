"""AlignerCard: aligner.json, what a checkpoint must know about itself to be used as it was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from aligner.correct.gate import GateCalibration
from aligner.errors import CheckpointError
from aligner.prompts import PromptFormat
from aligner.rows import write_atomic
from aligner.runs import Lineage, lineage_from_json, lineage_to_json

FILE_NAME = "aligner.json"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignerCard:
    """The prompt format the corrector was trained with, what it was made from, and what its gate was set by."""

    prompt: PromptFormat
    lineage: Lineage = ()
    gate: GateCalibration | None = None

    def save(self, directory: str | Path) -> None:
        """Write aligner.json beside the weights."""
        values = {"version": _VERSION, "prompt": self.prompt.to_json(), "lineage": lineage_to_json(self.lineage)}
        if self.gate is not None:
            values["gate"] = self.gate.to_json()
        write_atomic(Path(directory) / FILE_NAME, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, name: str | Path) -> Self | None:
        """Read aligner.json of a directory or Hub id; None where the checkpoint has none.

        Raises:
            CheckpointError: it is there and cannot be understood.
        """
        from transformers.utils import cached_file

        found = cached_file(
            str(name),
            FILE_NAME,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        if found is None:
            return None
        where = f"{name}/{FILE_NAME}"
        try:
            values = json.loads(Path(found).read_text(encoding="utf-8"))
        except (ValueError, OSError) as e:
            raise CheckpointError(f"{where}: cannot be read ({e}); save the corrector again") from None
        if not isinstance(values, Mapping) or not isinstance(values.get("prompt"), Mapping):
            raise CheckpointError(f"{where}: no 'prompt' in it; save the corrector again")
        if values.get("version") != _VERSION:
            raise CheckpointError(f"{where}: version {values.get('version')!r}, this release reads {_VERSION}; "
                                  "use the release that wrote it")  # fmt: skip
        gate = GateCalibration.from_json(values["gate"], where) if "gate" in values else None
        return cls(prompt=PromptFormat.from_json(values["prompt"], where), lineage=_lineage(values, where), gate=gate)


def checkpoint_place(path: str | Path) -> str | Path:
    """Where the checkpoint lies: in a training run's directory it is below it."""
    place = Path(path)
    return place / "model" if (place / "config.yaml").is_file() and (place / "model").is_dir() else path


def load_card(path: str | Path, tokenizer: Any, prompt: str | None = None) -> AlignerCard:
    """A checkpoint's card. `prompt` names the format of one that has none, such as the released ones.

    Raises:
        CheckpointError: there is none, and no `prompt`.
    """
    card = AlignerCard.load(path)
    if prompt is not None:
        form = PromptFormat.preset(prompt, tokenizer)
        if card is None:
            return AlignerCard(prompt=form)
        # A layout can be named; whether whole answers or sentences were learned cannot.
        form = replace(form, unit=card.prompt.unit)
        # A gate says nothing of the corrector that another layout makes of the same weights.
        return replace(card, prompt=form, gate=card.gate if form == card.prompt else None)
    if card is None:
        raise CheckpointError(
            f"{path}: no {FILE_NAME}, so the prompt it was trained with is not known; name it with "
            "prompt= (--prompt): aligner-v1 for the released 7B checkpoint, aligner-repo for the published "
            "training code, or chat"
        )
    return card


def _lineage(values: Mapping[str, Any], where: str) -> Lineage:
    try:
        return lineage_from_json(values.get("lineage", []))
    except (TypeError, KeyError):
        raise CheckpointError(
            f"{where}: 'lineage' is not a list of role, name and hash; save the corrector again"
        ) from None
