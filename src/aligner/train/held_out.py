"""How a corrector does on questions it was not trained on: loss per source, and what its corrections look like."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from aligner import edits
from aligner.correct.aligner import Aligner
from aligner.errors import DataError, PromptError
from aligner.prompts import PromptFormat
from aligner.tokens import TextCodec
from aligner.train.dataset import encode_row, training_rows
from aligner.train.head import head_at
from aligner.train.row_file import EncodedRow
from aligner.types import Correction, Triplet

_BATCH_TOKENS = 8192
_BATCH_LOGITS = 2**26  # a quarter of a gigabyte in fp32, whatever the vocabulary: training may have filled the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Held-out rows by source, encoded, and the triplets behind them; rows that do not fit are left out here too."""

    rows: Mapping[str, tuple[EncodedRow, ...]]
    triplets: Mapping[str, tuple[Triplet, ...]]

    @classmethod
    def build(cls, triplets: Iterable[Triplet], prompt: PromptFormat, codec: TextCodec, max_length: int) -> HeldOut:
        """Encode triplets.

        Raises:
            DataError: a text cannot be encoded; names the row's source and id.
        """
        rows: dict[str, list[EncodedRow]] = defaultdict(list)
        kept: dict[str, list[Triplet]] = defaultdict(list)
        for triplet in triplets:
            try:
                found = [
                    encode_row(r.triplet, prompt, codec, max_length, r.prefix, r.behind)
                    for r in training_rows(triplet, prompt)
                ]
            except PromptError as e:
                raise DataError(f"data: the row '{triplet.id}' of '{triplet.source}': {e}") from None
            if fitting := [row for row in found if row is not None]:
                source = triplet.source.split("/")[0]
                rows[source] += fitting
                kept[source].append(triplet)
        return cls(rows={k: tuple(rows[k]) for k in sorted(rows)}, triplets={k: tuple(kept[k]) for k in sorted(kept)})


@torch.no_grad()
def held_out_losses(model: Any, held_out: HeldOut, bf16: bool) -> dict[str, float]:
    """−log μ_φ(y_c | y_o, x) per token that is learned, in nats, per source and for "all" of them together."""
    training = model.training
    model.eval()
    positions = max(_BATCH_LOGITS // model.config.get_text_config().vocab_size, 1)
    totals: dict[str, tuple[float, int]] = {}
    for source, rows in held_out.rows.items():
        nats, tokens = 0.0, 0
        for batch in _batches(rows, positions):
            ids, mask, attention = _collate(batch, model.device)
            learned = mask[:, 1:].nonzero(as_tuple=True)
            autocast = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16)
            with autocast, head_at(model, *learned):
                logits = model(input_ids=ids, attention_mask=attention).logits[0]
            labels = ids[:, 1:][learned]
            for part, wanted in zip(torch.split(logits, positions), torch.split(labels, positions), strict=True):
                nats += float(cross_entropy(part.float(), wanted, reduction="sum"))
            tokens += len(labels)
        totals[source] = (nats, tokens)
    model.train(training)
    losses = {source: nats / tokens for source, (nats, tokens) in totals.items() if tokens}
    if tokens := sum(t for _, t in totals.values()):
        losses["all"] = sum(n for n, _ in totals.values()) / tokens
    return losses


def _batches(rows: tuple[EncodedRow, ...], positions: int) -> Iterator[list[EncodedRow]]:
    """Rows of similar length together, within a budget of padded tokens and one of positions that are learned."""
    batch: list[EncodedRow] = []
    learned = 0
    for row in sorted(rows, key=lambda r: len(r.ids)):
        more = len(row.ids) - row.prompt_length
        if batch and (len(row.ids) * (len(batch) + 1) > _BATCH_TOKENS or learned + more > positions):
            yield batch
            batch, learned = [], 0
        batch.append(row)
        learned += more
    if batch:
        yield batch


def _collate(batch: list[EncodedRow], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(len(row.ids) for row in batch)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in batch], device=device)
    positions = torch.arange(width, device=device)
    lengths = torch.tensor([[len(row.ids)] for row in batch], device=device)
    starts = torch.tensor([[row.prompt_length] for row in batch], device=device)
    attention = positions < lengths
    return ids, attention & (positions >= starts), attention.long()


def corrections(aligner: Aligner, held_out: HeldOut, per_source: int) -> Iterator[tuple[Triplet, Correction]]:
    """Correct the first held-out answers of every source."""
    for triplets in held_out.triplets.values():
        chosen = triplets[:per_source]
        done = aligner.correct_batch((t.question, t.answer) for t in chosen)
        yield from zip(chosen, done, strict=True)


def sample_row(triplet: Triplet, correction: Correction) -> dict[str, Any]:
    """A row of samples.jsonl."""
    question = triplet.question
    return {
        "id": triplet.id,
        "source": triplet.source,
        "question": question
        if isinstance(question, str)
        else [{"role": m.role, "content": m.content} for m in question],
        "answer": triplet.answer,
        "reference": triplet.correction,
        "correction": correction.text,
        "kept_because": correction.kept_because,
        "flags": list(correction.flags),
        "edit_ratio": correction.edit_ratio,
        "copied_share": correction.copied_share,
        "is_copy": correction.is_copy,
        "reference_edit_ratio": edits.edit_ratio(triplet.answer, triplet.correction),
        "reference_copied_share": edits.copied_share(triplet.answer, triplet.correction),
    }
