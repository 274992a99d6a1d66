"""Our training objective against what TRL's SFTTrainer computes on the same rows, and transformers' own loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from aligner.objectives import completion_log_probs, corrector_loss, sft_loss
from aligner.prompts import PromptFormat
from aligner.tokens import TextCodec
from aligner.types import as_chat
from tests.models import byte_bpe_tokenizer, tiny_model

ROWS = [
    ("How do I boil rice?", "Boil it.", "Wash it first, then add two cups of water and wait for ten minutes."),
    ("What is 12 and 30?", "The sum is 43. Thank you for this very good question about numbers.", "The sum is 42."),
    ("?", "!", ""),
    ("Is the dog lazy?", "Yes, and the fox is quick.", "Yes, and the fox is quick."),
]
KINDS = ["llama", "qwen2", "gemma", "gpt_neox"]


def rows(preset: str, picked: list[int]) -> list[dict[str, list[int]]]:
    """Rows as training makes them: ids of prompt and completion, and which are the completion's."""
    tokenizer = byte_bpe_tokenizer()
    codec, layout = TextCodec(tokenizer), PromptFormat.preset(preset, tokenizer)
    out = []
    for question, answer, correction in (ROWS[i] for i in picked):
        prompt = layout.encode(codec, as_chat(question), answer).ids
        completion = layout.encode_correction(codec, correction)
        out.append({
            "input_ids": [*prompt, *completion],
            "completion_mask": [0] * len(prompt) + [1] * len(completion),
        })  # fmt: skip
    return out


def padded(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """The batch padded on the right, without the trainer's help."""
    width = max(len(row["input_ids"]) for row in batch)
    pad = byte_bpe_tokenizer().pad_token_id

    def stack(lists: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([values + [fill] * (width - len(values)) for values in lists])

    return {
        "input_ids": stack([row["input_ids"] for row in batch], pad),
        "attention_mask": stack([[1] * len(row["input_ids"]) for row in batch], 0),
        "completion_mask": stack([row["completion_mask"] for row in batch], 0).bool(),
    }


def our_loss(model: Any, batch: list[dict[str, list[int]]], loss: Any = corrector_loss) -> float:
    tensors = padded(batch)
    with torch.no_grad():
        logits = model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"]).logits
        return float(loss(logits, tensors["input_ids"], tensors["completion_mask"]))


def trainer(model: Any, batch: list[dict[str, list[int]]], directory: Path, *, completion_only: bool = True) -> Any:
    arguments = SFTConfig(
        output_dir=str(directory), report_to="none", max_length=None, packing=False, bf16=False, use_cpu=True,
        completion_only_loss=completion_only, per_device_train_batch_size=len(batch), activation_checkpointing=False,
        dataloader_pin_memory=False,
    )  # fmt: skip
    return SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(batch), processing_class=byte_bpe_tokenizer()
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["chat", "aligner-v1"])
@pytest.mark.parametrize("picked", [[0], [0, 1, 2, 3], [2, 1]], ids=["one row", "ragged rows", "ragged the other way"])
def test_equals_the_trainers_loss_and_the_models_own(kind: str, preset: str, picked: list[int], tmp_path: Path) -> None:
    model = tiny_model(kind, byte_bpe_tokenizer(), seed=4)
    batch = rows(preset, picked)
    ours = our_loss(model, batch)

    subject = trainer(model, batch, tmp_path)
    inputs = next(iter(subject.get_train_dataloader()))
    with torch.no_grad():
        theirs = float(subject.compute_loss(subject.model, dict(inputs)))
    assert ours == pytest.approx(theirs, abs=1e-6, rel=1e-6)

    tensors = padded(batch)
    labels = tensors["input_ids"].masked_fill(~tensors["completion_mask"], -100)
    with torch.no_grad():
        hf = float(model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"], labels=labels).loss)
    assert ours == pytest.approx(hf, abs=1e-6, rel=1e-6)
    assert ours > 0.5, "an untrained model is far from certain"


def test_the_gradients_are_equal_too(tmp_path: Path) -> None:
    batch = rows("chat", [0, 1, 3])
    theirs = tiny_model("llama", byte_bpe_tokenizer(), seed=5)
    subject = trainer(theirs, batch, tmp_path)
    inputs = next(iter(subject.get_train_dataloader()))
    subject.compute_loss(subject.model, dict(inputs)).backward()

    ours = tiny_model("llama", byte_bpe_tokenizer(), seed=5)
    tensors = padded(batch)
    logits = ours(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"]).logits
    corrector_loss(logits, tensors["input_ids"], tensors["completion_mask"]).backward()
    for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_the_loss_on_whole_rows_is_sft_loss_with_a_full_mask(tmp_path: Path) -> None:
    model = tiny_model("llama", byte_bpe_tokenizer(), seed=6)
    batch = [{"input_ids": row["input_ids"]} for row in rows("chat", [0, 1])]
    full = [row | {"completion_mask": [1] * len(row["input_ids"])} for row in batch]
    ours = our_loss(model, full, sft_loss)
    subject = trainer(model, batch, tmp_path, completion_only=False)
    with torch.no_grad():
        theirs = float(subject.compute_loss(subject.model, dict(next(iter(subject.get_train_dataloader())))))
    assert ours == pytest.approx(theirs, abs=1e-6, rel=1e-6)


def test_rows_padded_in_a_batch_have_the_log_probabilities_they_have_alone() -> None:
    model = tiny_model("qwen2", byte_bpe_tokenizer(), seed=7)
    batch = rows("chat", [0, 1, 2, 3])

    def sums(part: list[dict[str, list[int]]]) -> torch.Tensor:
        tensors = padded(part)
        with torch.no_grad():
            logits = model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"]).logits
        return completion_log_probs(logits, tensors["input_ids"], tensors["completion_mask"])

    torch.testing.assert_close(sums(batch), torch.cat([sums([row]) for row in batch]), atol=1e-3, rtol=1e-5)
