"""`aligner calibrate`: sets the gate of a corrector by triplets that it was not trained on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from aligner.config import Config, expand
from aligner.correct.aligner import Aligner
from aligner.correct.card import FILE_NAME, AlignerCard
from aligner.correct.gate import NEVER, GateCalibration, HeldOutScore, calibrate_scores
from aligner.errors import CheckpointError
from aligner.generate.hf import Dtype, Quantize
from aligner.runs import ancestor_of_file, merge_lineage
from aligner.triplets import read_triplets
from aligner.types import Chat, Sampling, Triplet


class CalibrateConfig(Config):
    """Calibrate a corrector's gate by triplets that it was not trained on; the result stands in its aligner.json."""

    aligner: Path
    """The corrector: a directory, or a training run."""
    input: Path
    """Triplets, which the corrector has not seen: those with a correction set what passes, those without what it
    saves."""
    prompt: str | None = None
    """The prompt format of a checkpoint without aligner.json: aligner-v1, aligner-repo or chat. The one that is
    written then names it."""
    max_rows: int = Field(default=64, ge=1)
    """Answers corrected at the same time."""
    device: str | None = None
    """cpu, cuda, …; left out: the accelerator where there is one."""
    dtype: Dtype = "auto"
    """Arithmetic; auto keeps what the checkpoint was saved in."""
    quantize: Quantize = "none"
    """Keep the weights in 8 or 4 bits; the gate is then for correctors that are loaded so."""


def run(config: CalibrateConfig) -> GateCalibration:
    """Calibrate, and write the card.

    Raises:
        CheckpointError: no corrector lies there, or one that was trained with another prompt than the named one.
        DataError: the file cannot be read, or too few of its triplets need a correction.
        StorageError: the card cannot be written.
    """
    place = config.aligner / "model" if (config.aligner / "config.yaml").is_file() else config.aligner
    if not place.is_dir():
        raise CheckpointError(f"{place}: no such directory; a corrector is calibrated where it lies, so download one "
                              "from the Hub first")  # fmt: skip
    source = expand(config.input, "input")
    triplets: Iterable[Triplet] = read_triplets(source)
    if source.is_file():
        for _ in triplets:  # a bad row is told before a model is loaded
            pass
        triplets = read_triplets(source)
    else:
        triplets = list(triplets)  # of a pipe, which can be read once
    with Aligner.from_pretrained(
        place, prompt=config.prompt, device=config.device, dtype=config.dtype, max_rows=config.max_rows,
        quantize=config.quantize,
    ) as aligner:  # fmt: skip
        own = AlignerCard.load(place)
        if own is not None and own.prompt != aligner.card.prompt:
            raise CheckpointError(f"{place}/{FILE_NAME}: it was trained with another prompt ({own.prompt.name}); leave "
                                  "--prompt out")  # fmt: skip
        found = aligner.calibrate(triplets)
        lineage = merge_lineage(aligner.card.lineage, [ancestor_of_file("data", source)])
        replace(aligner.card, lineage=lineage).save(place)
    return found


def calibration(aligner: Aligner, triplets: Iterable[Triplet]) -> GateCalibration:
    """What held-out triplets say of a corrector's gate; one that is longer than what may be written says nothing.

    Raises:
        DataError: too few of them need a correction.
    """
    needed: deque[bool] = deque()  # of the triplets whose corrections are under way

    def rows() -> Iterator[tuple[Chat | str, str, Sampling]]:
        for triplet in triplets:
            needed.append(triplet.correction != triplet.answer)
            # Greedy, whatever the corrector is set to: what it changes by chance is no property of an answer.
            yield triplet.question, triplet.answer, Sampling()

    def scores() -> Iterator[HeldOutScore]:
        for correction in aligner.correct_each(rows(), NEVER):
            is_needed = needed.popleft()
            if correction.gate is not None:
                yield HeldOutScore(score=correction.gate.score, needed=is_needed, changed=not correction.is_copy)

    found = calibrate_scores(scores())
    return replace(found, quantize=aligner.quantize, dtype=str(aligner.model.dtype).removeprefix("torch."))
