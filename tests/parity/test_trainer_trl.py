"""Our trainer's loss on a CPU against TRL's own, and a step's gradients with it."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import MixtralConfig, MixtralForCausalLM
from trl import SFTConfig, SFTTrainer

from aligner.errors import ConfigError
from aligner.train.config import Residual, Scratch, TrainConfig
from aligner.train.corrector import _check
from aligner.train.edited import mark
from aligner.train.scratch import build_model, train_tokenizer
from aligner.train.trainer import trainer_class


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(iter(["the cat sat on the mat."] * 5), 300)


def rows(count: int = 12) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(count):
        length = 6 + 3 * i % 17
        ids = torch.randint(5, 250, (length,), generator=generator).tolist()
        made.append({"input_ids": ids, "completion_mask": [0] * 4 + [1] * (length - 4), "length": length})
    return Dataset.from_list(made)


def trainer(cls, tokenizer, path, model=None, **changes):
    model = model or build_model(Scratch(layers=2, hidden=32, heads=2), tokenizer, 64, seed=0)
    arguments = SFTConfig(
        output_dir=str(path), use_cpu=True, max_length=None, completion_only_loss=True, report_to="none",
        save_strategy="no", disable_tqdm=True, per_device_train_batch_size=4, pad_to_multiple_of=None,
        **({"bf16": False, "activation_checkpointing": False} | changes),
    )  # fmt: skip
    return cls(model=model, args=arguments, train_dataset=rows(), processing_class=tokenizer)


@pytest.mark.parametrize("items", [None, 7, 40])
def test_loss_and_gradients_equal_trls(tokenizer, tmp_path, items) -> None:
    theirs = trainer(SFTTrainer, tokenizer, tmp_path / "a")
    ours = trainer(trainer_class(), tokenizer, tmp_path / "b")
    batch = theirs.data_collator([theirs.train_dataset[i] for i in range(6)])
    count = None if items is None else torch.tensor(items)
    expected = theirs.compute_loss(theirs.model, dict(batch), num_items_in_batch=count)
    found = ours.compute_loss(ours.model, dict(batch), num_items_in_batch=count)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    expected.backward()
    found.backward()
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


def test_a_mixture_of_experts_learns_its_routers_loss_too(tokenizer, tmp_path) -> None:
    torch.manual_seed(0)
    shape = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=64, router_aux_loss_coef=0.5,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = MixtralForCausalLM(shape)
    theirs = trainer(SFTTrainer, tokenizer, tmp_path / "a", model)
    ours = trainer(trainer_class(), tokenizer, tmp_path / "b", model)
    batch = theirs.data_collator([theirs.train_dataset[i] for i in range(6)])
    expected = theirs.compute_loss(model, dict(batch)).item()
    assert ours.compute_loss(model, dict(batch)).item() == pytest.approx(expected, rel=1e-6)
    model.save_pretrained(tmp_path / "moe")
    tokenizer.save_pretrained(tmp_path / "moe")
    config = TrainConfig(data=("x",), out=tmp_path / "run", model=str(tmp_path / "moe"), max_length=64,
                         residual=Residual(edit_weight=2))  # fmt: skip
    with pytest.raises(ConfigError, match=r"residual\.edit_weight: the experts of"):
        _check(config, tokenizer)
    _check(config.model_copy(update={"residual": Residual()}), tokenizer)


def test_the_model_is_left_as_it_was_and_tokens_are_counted(tokenizer, tmp_path) -> None:
    ours = trainer(trainer_class(), tokenizer, tmp_path / "b", max_steps=3, logging_steps=1)
    batch = ours.data_collator([ours.train_dataset[i] for i in range(6)])
    ours.compute_loss(ours.model, dict(batch))
    assert ours.model(batch["input_ids"]).logits.shape[:2] == batch["input_ids"].shape
    ours._total_train_tokens = 0
    ours.train()
    seen = [h["num_tokens"] for h in ours.state.log_history if "num_tokens" in h]
    assert seen[-1] == sum(rows()["length"])


def test_the_mask_comes_from_lengths_not_from_the_pad_id(tokenizer, tmp_path) -> None:
    """Rows that hold the pad id, even as the label that ends them, lose nothing to padding."""
    ours = trainer(trainer_class(), tokenizer, tmp_path / "b")
    pad = tokenizer.pad_token_id
    rows = [
        {"input_ids": [9, pad, 8, pad], "labels": [-100, -100, 8, pad]},
        {"input_ids": [9, 7], "labels": [-100, 7]},
    ]
    batch = ours.data_collator(rows)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    together = ours.compute_loss(ours.model, dict(batch))
    alone = [ours.compute_loss(ours.model, dict(ours.data_collator([row]))).item() for row in rows]
    assert together.item() == pytest.approx((2 * alone[0] + alone[1]) / 3, rel=1e-6)


@pytest.mark.parametrize(("step", "weight"), [(0, 4.0), (5, 2.5), (10, 1.0)])
def test_edited_tokens_weigh_what_the_step_says(tokenizer, tmp_path, step, weight) -> None:
    """Against a sum over single tokens, each by TRL's own loss."""
    ours = trainer(trainer_class(), tokenizer, tmp_path / "b", max_steps=10)
    ours.edit_weight = 4.0
    ours.state.global_step, ours.state.max_steps = step, 10
    ids = [9, 30, 8, 41, 17]
    labels = [-100, -100, 8, mark(41), 17]
    found = ours.compute_loss(ours.model, dict(ours.data_collator([{"input_ids": ids, "labels": labels}])))
    theirs = trainer(SFTTrainer, tokenizer, tmp_path / "a")
    alone = []
    for i in (2, 3, 4):
        one = [-100] * 5
        one[i] = ids[i]
        alone.append(theirs.compute_loss(ours.model, theirs.data_collator([{"input_ids": ids, "labels": one}])).item())
    assert found.item() == pytest.approx((alone[0] + weight * alone[1] + alone[2]) / 3, rel=1e-6)


def test_marks_mean_nothing_where_edits_weigh_the_same(tokenizer, tmp_path) -> None:
    ours = trainer(trainer_class(), tokenizer, tmp_path / "b")
    ids = [9, 30, 8, 41, 17]
    rows = [{"input_ids": ids, "labels": [-100, -100, 8, last, 17]} for last in (41, mark(41))]
    plain, marked = (ours.compute_loss(ours.model, dict(ours.data_collator([row]))).item() for row in rows)
    assert plain == marked


def test_outputs_when_asked_for_come_from_trl(tokenizer, tmp_path) -> None:
    ours = trainer(trainer_class(), tokenizer, tmp_path / "b")
    batch = ours.data_collator([ours.train_dataset[i] for i in range(4)])
    with pytest.warns(FutureWarning, match="return_outputs"):
        loss, outputs = ours.compute_loss(ours.model, dict(batch), return_outputs=True)
    assert outputs.logits.shape[:2] == batch["input_ids"].shape
    assert loss.item() == pytest.approx(ours.compute_loss(ours.model, dict(batch)).item(), rel=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_bf16_stays_near_fp32_with_activations_kept_or_computed_twice(tokenizer, tmp_path, checkpointing) -> None:
    """Short rows take another attention kernel in bf16; computing it a second time must take the same one again."""
    exact = trainer(trainer_class(), tokenizer, tmp_path / "a")
    rough = trainer(trainer_class(), tokenizer, tmp_path / "b", bf16=True, activation_checkpointing=checkpointing)
    if checkpointing:
        rough.model.activation_checkpointing_enable()
    batch = exact.data_collator([exact.train_dataset[i] for i in range(6)])
    gradients = []
    for one in (exact, rough):
        model = one.accelerator.prepare(one.model)
        model.train()
        loss = one.compute_loss(model, dict(batch))
        one.accelerator.backward(loss)
        gradients.append(torch.cat([p.grad.flatten() for p in one.model.parameters()]))
        assert loss.item() == pytest.approx(5.8, abs=0.3)  # log of the vocabulary, 5.6, and some logits
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[0].norm()
