"""The parts of training one by one: order, encoding, tokenizer and model from scratch, held-out loss, progress."""

from __future__ import annotations

import math
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from aligner.errors import DataError, PromptError, TrainingError
from aligner.objectives import corrector_loss
from aligner.prompts import PromptFormat
from aligner.rows import JsonlWriter, read_rows
from aligner.runs import RunDir
from aligner.tokens import TextCodec
from aligner.train import held_out as held_out_module
from aligner.train import progress as progress_module
from aligner.train.config import Schedule, Scratch, TrainConfig, Warmup
from aligner.train.dataset import Prepared, data_files, encode_row, prepare, texts
from aligner.train.edited import edited, weight_at
from aligner.train.figures import cut_metrics, held_out_table, stage_figures
from aligner.train.held_out import HeldOut, held_out_losses
from aligner.train.order import LengthBuckets
from aligner.train.progress import StageProgress, any_stops, stop_on_interrupt
from aligner.train.scratch import build_model, train_tokenizer
from aligner.types import Triplet
from tests.models import tilde_tokenizer
from tests.training import tiny_config, toy_rows, write_rows

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return TextCodec(train_tokenizer((r["answer"] for r in toy_rows()), 320))


@pytest.fixture(scope="module")
def prompt(codec) -> PromptFormat:
    return PromptFormat.preset("chat", codec.tokenizer, instruction="", request="")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_configuration_parses(path: Path) -> None:
    config = TrainConfig.from_yaml(path)
    assert TrainConfig.from_dict(config.model_dump(mode="json")) == config


def test_published_defaults() -> None:
    """PAPER's training section: AdamW (.9, .95), 2e-5 cosine, warm-up ratio .03, no decay, 3 epochs, 4 × 8, 2048."""
    schedule = Schedule()
    assert (schedule.betas, schedule.learning_rate, schedule.scheduler) == ((0.9, 0.95), 2e-5, "cosine")
    assert (schedule.warmup_share, schedule.weight_decay, schedule.epochs) == (0.03, 0.0, 3)
    assert (schedule.batch_size, schedule.accumulation) == (4, 8)
    config = TrainConfig(data=("x",), out=Path("y"), model="z")
    assert (config.max_length, config.warmup.share, config.seed) == (2048, 0.2, 42)


@pytest.mark.parametrize(("rows", "batch"), [(1, 4), (4, 4), (1003, 8), (500, 1)])
def test_order_visits_every_row_once_in_batches_of_similar_length(rows: int, batch: int) -> None:
    lengths = torch.randint(5, 500, (rows,), generator=torch.Generator().manual_seed(0)).tolist()
    order = list(LengthBuckets(lengths, batch, seed=3))
    assert sorted(order) == list(range(rows))
    batches = [order[i : i + batch] for i in range(0, rows, batch)]
    padding = sum(max(lengths[i] for i in b) * len(b) for b in batches) / sum(lengths)
    shuffled = sum(max(lengths[i : i + batch]) * len(lengths[i : i + batch]) for i in range(0, rows, batch)) / sum(
        lengths
    )
    if rows > 1000:
        assert padding < 1.1 < shuffled
        means = [sum(lengths[i] for i in b) / len(b) for b in batches]
        assert means != sorted(means), "long and short batches are mixed"


def test_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = list(range(1, 200))

    def order(seed: int, epoch: int) -> list[int]:
        torch.manual_seed(epoch + 100 * seed)  # the global generator must not matter
        buckets = LengthBuckets(lengths, 4, seed)
        buckets.set_epoch(epoch)
        return list(buckets)

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(s, e)) for s in (1, 2) for e in (0, 1)}) == 4
    assert len(LengthBuckets(lengths, 4, 1)) == 199


def test_an_encoded_row_is_the_prompt_served_and_the_correction_with_its_end(codec, prompt) -> None:
    triplet = Triplet(question="list", answer="alpha beta.", correction="alpha omega.")
    row = encode_row(triplet, prompt, codec, 100)
    assert row is not None
    assert row.ids[: row.prompt_length] == prompt.encode(codec, triplet.chat, triplet.answer).ids
    assert row.ids[-1] == codec.tokenizer.eos_token_id
    assert codec.decode(row.ids[row.prompt_length : -1]) == "alpha omega."


@pytest.mark.parametrize(
    ("answer", "correction", "expected"),
    [
        ("abcd", "abcd", "...."),
        ("abcd", "abxd", "..x."),
        ("abcd", "abxyd", "..xx."),
        ("abcd", "acd", ".x."),  # what follows after something left out
        ("abcd", "abc", "..."),  # nothing follows; in a row, its end token would
        ("abc", "abcd", "...x"),
        ("abc", "xabc", "x..."),
        ("", "ab", "xx"),
        ("ab", "", ""),
    ],
)
def test_the_edited_tokens_of_a_correction(answer, correction, expected) -> None:
    found = edited([ord(c) for c in answer], [ord(c) for c in correction])
    assert "".join("x" if e else "." for e in found) == expected


def test_the_weight_of_edited_tokens_falls_evenly_to_one() -> None:
    assert [weight_at(4.0, step, 100) for step in (0, 50, 100, 101)] == [4.0, 2.5, 1.0, 1.0]
    assert weight_at(1.0, 3, 10) == 1.0


def test_rows_say_which_tokens_are_edited_where_edits_weigh_more(codec, prompt) -> None:
    triplet = Triplet(question="list", answer="alpha beta.", correction="alpha omega.")
    plain, weighed = (encode_row(triplet, prompt, codec, 100, weigh_edits=w) for w in (False, True))
    assert plain is not None
    assert weighed is not None
    assert weighed.ids == plain.ids
    completion = plain.ids[plain.prompt_length :]
    assert plain.labels() == [-100] * plain.prompt_length + list(completion)
    assert weighed.edited == tuple(edited(prompt.encode_correction(codec, triplet.answer), completion))
    assert set(weighed.edited) == {True, False}
    identity = encode_row(triplet.identity(), prompt, codec, 100, weigh_edits=True)
    assert identity is not None
    assert identity.edited == ()


def test_a_row_fits_exactly_or_not_at_all(codec, prompt) -> None:
    triplet = Triplet(question="list", answer="alpha beta.", correction="alpha omega.")
    row = encode_row(triplet, prompt, codec, 1000)
    assert row is not None
    assert encode_row(triplet, prompt, codec, len(row.ids)) == row
    assert encode_row(triplet, prompt, codec, len(row.ids) - 1) is None
    assert encode_row(triplet, prompt, codec, 1) is None


def test_prepared_rows_share_and_identity(tmp_path, codec, prompt) -> None:
    config = tiny_config(write_rows(tmp_path / "d.jsonl", toy_rows(400)), tmp_path / "run", held_out=0.1)
    prepared = prepare(config, data_files(config.data), prompt, codec, tmp_path / "rows")
    residual, warmup = prepared.stages["residual"], prepared.stages["warmup"]
    assert prepared.read == 400 == len(residual) + prepared.held_out_total
    assert 0.4 < len(warmup) / len(residual) < 0.6
    assert prepared.held_out_total == len(prepared.held_out)
    for row in warmup.select(range(5)):
        start = next(i for i, label in enumerate(row["labels"]) if label != -100)
        completion = codec.decode(row["input_ids"][start:])
        assert completion in codec.decode(row["input_ids"][:start]), "an identity row repeats the answer"
        assert row["length"] == len(row["input_ids"]) == len(row["labels"])
        assert row["labels"][start:] == row["input_ids"][start:]
    again = prepare(config, data_files(config.data), prompt, codec, tmp_path / "again")
    assert again.held_out == prepared.held_out
    limited = config.model_copy(update={"held_out_rows": 7})
    few = prepare(limited, data_files(config.data), prompt, codec, tmp_path / "few")
    assert len(few.held_out) == 7
    assert few.held_out_total == prepared.held_out_total
    assert few.held_out == prepared.held_out[:7]


def test_data_files_expand_patterns_and_variables(tmp_path, monkeypatch) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setenv("SOME_PLACE", str(tmp_path))
    assert [p.name for p in data_files(("$SOME_PLACE/*.jsonl", f"{tmp_path}/a.jsonl"))] == ["a.jsonl", "b.jsonl"]
    with pytest.raises(DataError, match="not set"):
        data_files(("${NOT_A_PLACE}/x",))
    with pytest.raises(DataError, match="names no file"):
        data_files((f"{tmp_path}/*.xz",))


def test_tokenizer_from_scratch(tmp_path) -> None:
    tokenizer = train_tokenizer(iter(["the cat sat on the mat"] * 9 + ["\ud800 lone"]), 300)
    assert len(tokenizer) <= 300
    assert tokenizer.unk_token is None
    for text in ("the cat", "  spaces\n\ttabs ", "日本語 🙂 ä", "<|end|> is no end here"):
        codec = TextCodec(tokenizer)
        assert codec.decode(codec.encode(text)) == text
    with pytest.raises(DataError, match="no texts"):
        train_tokenizer(iter([]), 300)
    rows = write_rows(tmp_path / "t.jsonl", toy_rows(10))
    assert len(list(texts([rows], 4))) == 12


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_model_from_scratch(codec, architecture) -> None:
    config = Scratch(architecture=architecture, layers=3, hidden=64, heads=4, kv_heads=2)
    state = torch.random.get_rng_state()
    model = build_model(config, codec.tokenizer, 77, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.config.model_type == architecture
    assert model.config.intermediate_size == 176
    assert model.config.max_position_embeddings == 77
    assert (model.config.num_hidden_layers, model.config.num_key_value_heads) == (3, 2)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    same = build_model(config, codec.tokenizer, 77, seed=5)
    other = build_model(config, codec.tokenizer, 77, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_of_a_new_model_passes_on_what_it_attends_to(codec, kv_heads) -> None:
    """Attention to one token adds a quarter of that token's own embedding, and little of any other direction."""
    config = Scratch(layers=3, hidden=64, heads=4, kv_heads=kv_heads)
    model = build_model(config, codec.tokenizer, 64, seed=0)
    for layer in model.model.layers[1:]:
        value, output = layer.self_attn.v_proj.weight, layer.self_attn.o_proj.weight
        each = value.view(kv_heads, 16, 64).repeat_interleave(4 // kv_heads, dim=0).flatten(0, 1)
        passed = output @ each
        # With shared values, what is kept is the share of directions that they span.
        assert passed.diagonal().mean().item() == pytest.approx(0.25 * kv_heads / 4, abs=0.03)
        others = passed - torch.diag(passed.diagonal())
        assert others.abs().mean().item() < 0.05


@pytest.mark.parametrize(("architecture", "kv_heads"), [("llama", 4), ("qwen2", 4), ("llama", 2)])
def test_a_new_model_finds_where_what_it_says_was_said_before(codec, architecture, kv_heads) -> None:
    """Tokens in random order, then something else, then the first ones again: nothing of it was ever learned."""
    config = Scratch(architecture=architecture, layers=2, hidden=192, heads=4, kv_heads=kv_heads)
    model = build_model(config, codec.tokenizer, 128, seed=0).eval()
    model.set_attn_implementation("eager")
    random = torch.Generator().manual_seed(0)
    said = torch.randint(5, len(codec.tokenizer), (16, 40), generator=random)
    other = torch.randint(5, len(codec.tokenizer), (16, 10), generator=random)
    with torch.no_grad():
        first, second = model(torch.cat([said, other, said], dim=1), output_attentions=True).attentions
    back = min(3, kv_heads)
    for k in range(back):
        head = k * 4 // kv_heads
        assert first[:, head].diagonal(-(k + 1), 1, 2)[:, 8:].mean().item() > 0.6
    # 40 + 10 tokens ago the same was said, and one after that comes what follows.
    follows = second.diagonal(-49, 2, 3)[:, :, 5:].mean().item()
    assert follows > 6 * (1 / 70)


@pytest.mark.parametrize("shape", [{"layers": 1, "heads": 4}, {"layers": 2, "heads": 1}, {"layers": 2, "heads": 2}])
def test_new_models_of_any_shape_have_numbers_for_weights(codec, shape) -> None:
    model = build_model(Scratch(hidden=16, **shape), codec.tokenizer, 64, seed=0)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_held_out_loss_is_the_objective_per_token_and_source(codec, prompt) -> None:
    triplets = [Triplet(**row, id=str(i)) for i, row in enumerate(toy_rows(30))]
    model = build_model(Scratch(layers=1, hidden=32, heads=2), codec.tokenizer, 96, seed=0)
    held_out = HeldOut.build(triplets, prompt, codec, 96)
    losses = held_out_losses(model, held_out, bf16=False)
    assert set(losses) == {"even", "odd", "all"}
    assert model.training
    nats = tokens = 0.0
    for triplet in triplets:
        row = encode_row(triplet, prompt, codec, 96)
        ids = torch.tensor([row.ids])
        mask = torch.tensor([[False] * row.prompt_length + [True] * (len(row.ids) - row.prompt_length)])
        with torch.no_grad():
            loss = corrector_loss(model.eval()(ids).logits, ids, mask)
        nats += float(loss) * int(mask.sum())
        tokens += int(mask.sum())
    assert losses["all"] == pytest.approx(nats / tokens, rel=1e-5)
    rough = held_out_losses(model, held_out, bf16=True)
    assert rough["all"] == pytest.approx(losses["all"], rel=0.02)
    assert held_out_losses(model, HeldOut.build([], prompt, codec, 96), bf16=False) == {}


def test_held_out_losses_take_a_bounded_number_of_logits(codec, prompt, monkeypatch) -> None:
    """The same numbers however large the vocabulary is; with a small one the batches are as large as ever."""
    triplets = [Triplet(**row, id=str(i)) for i, row in enumerate(toy_rows(40))]
    model = build_model(Scratch(layers=1, hidden=32, heads=2), codec.tokenizer, 96, seed=0)
    held_out = HeldOut.build(triplets, prompt, codec, 96)
    made: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _module, _inputs, logits: made.append(logits.numel()))
    whole, batches = held_out_losses(model, held_out, bf16=False), len(made)
    learned = sum(len(row.ids) - row.prompt_length for rows in held_out.rows.values() for row in rows)
    assert sum(made) == learned * model.config.vocab_size
    assert batches == 2, "one for each source: they are far below 8,192 tokens"
    longest = max(len(row.ids) - row.prompt_length for rows in held_out.rows.values() for row in rows)
    for positions in (3 * longest, 5):
        made.clear()
        monkeypatch.setattr(held_out_module, "_BATCH_LOGITS", positions * model.config.vocab_size)
        losses = held_out_losses(model, held_out, bf16=False)
        assert losses == {source: pytest.approx(loss, rel=1e-5) for source, loss in whole.items()}
        assert len(made) > batches
        # A row is measured in one pass, so the longest one is the least that can be asked for.
        assert max(made) <= max(positions, longest) * model.config.vocab_size


def test_batches_of_the_pocket_models_are_bounded_by_tokens_alone(codec, prompt) -> None:
    triplets = [Triplet(**row, id=str(i)) for i, row in enumerate(toy_rows(1500))]
    rows = HeldOut.build(triplets, prompt, codec, 96).rows["odd"]
    batches = list(held_out_module._batches(rows, held_out_module._BATCH_LOGITS // 8192))
    assert len(batches) > 1
    assert batches == list(held_out_module._batches(rows, 1 << 60))


def trained(step: int, **logs: float) -> tuple[SimpleNamespace, dict[str, float]]:
    return SimpleNamespace(global_step=step, max_steps=10, is_world_process_zero=True), logs


def test_progress_rows_and_a_loss_that_is_no_number(tmp_path) -> None:
    with JsonlWriter(tmp_path / "m.jsonl") as metrics:
        progress = StageProgress("warmup", metrics, stop=threading.Event())
        state, _ = trained(0)
        progress.on_train_begin(None, state, None)
        for step, loss in ((1, 3.0), (2, 2.5)):
            state, logs = trained(step, loss=loss, learning_rate=0.1, grad_norm=1.0, num_tokens=step * 100)
            progress.on_log(None, state, None, logs=logs)
        progress.on_log(None, state, None, logs={"train_runtime": 3.0})
        assert (progress.first_loss, progress.last_loss, progress.tokens) == (3.0, 2.5, 200)
        for bad in (math.nan, math.inf):
            state, logs = trained(3, loss=bad)
            with pytest.raises(TrainingError, match="step 3"):
                progress.on_log(None, state, None, logs=logs)
        progress.close()
    rows = [row.value for row in read_rows(tmp_path / "m.jsonl")]
    assert [(r["stage"], r["step"], r["loss"]) for r in rows] == [("warmup", 1, 3.0), ("warmup", 2, 2.5)]
    assert all(r["tokens_per_s"] > 0 for r in rows)


def test_progress_evaluates_on_time_and_stops_when_asked() -> None:
    stop, seen = threading.Event(), []
    progress = StageProgress("residual", None, stop=stop, evaluate=seen.append, evaluate_every=2)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    for step in range(1, 6):
        progress.on_step_end(None, trained(step)[0], control)
    assert seen == [2, 4]
    assert not control.should_training_stop
    stop.set()
    progress.on_step_end(None, trained(6)[0], control)
    assert control.should_save
    assert control.should_training_stop
    assert seen == [2, 4, 6], "what is due is measured before the stop, or the resumed run would lack it"
    progress.on_step_end(None, trained(10)[0], control)
    assert seen == [2, 4, 6]


def test_processes_stop_by_what_they_agreed_on(monkeypatch) -> None:
    """A signal between the agreement and the end of the step is for the next one, as it is for all others."""
    stop, signalled = threading.Event(), threading.Event()
    monkeypatch.setattr(progress_module, "PartialState", lambda: SimpleNamespace(num_processes=2, device="cpu"))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_: stop.set() if signalled.is_set() else None)
    assert not any_stops(stop)
    signalled.set()
    assert not any_stops(stop)
    assert stop.is_set()
    assert any_stops(stop)


def test_the_first_interrupt_ends_a_step_where_another_process_was_told_before(capsys) -> None:
    with stop_on_interrupt() as stop:
        stop.set()
        signal.raise_signal(signal.SIGINT)
        assert "Ctrl-C again" in capsys.readouterr().err


def test_the_second_interrupt_is_the_ordinary_one(capsys) -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again" in capsys.readouterr().err


def test_figures_are_read_back_from_metrics(tmp_path) -> None:
    run = RunDir.create(tmp_path / "run", Schedule())
    with run.metrics() as metrics:
        metrics.write({"stage": "warmup", "step": 0, "held_out_loss": 5.0, "source": "s"})
        for step in (1, 2, 3):
            metrics.write({"stage": "warmup", "step": step, "loss": 4.0 - step, "seconds": 2.0, "tokens_per_s": 10.0})
        metrics.write({"stage": "warmup", "step": 3, "held_out_loss": 3.0, "source": "s"})
        metrics.write({"stage": "residual", "step": 1, "loss": 9.0, "seconds": 1.0, "tokens_per_s": 1.0})
    assert stage_figures(run, "warmup") == {"tokens": 60, "seconds": 6.0, "loss_first": 3.0, "loss_last": 1.0}
    held_out = HeldOut(rows={"s": ()}, triplets={"s": ()})
    table = held_out_table(run, held_out, [])
    assert table[0]["loss_before"] == 5.0
    assert table[0]["loss"] == 3.0
    assert table[0]["edit_ratio"] is None
    cut_metrics(run, "warmup", 2)
    assert [(r.value["stage"], r.value["step"]) for r in read_rows(run.metrics_path)] == [
        ("warmup", 0),
        ("warmup", 1),
        ("warmup", 2),
        ("residual", 1),
    ]
    cut_metrics(run, "residual", 0)
    assert {r.value["stage"] for r in read_rows(run.metrics_path)} == {"warmup"}


def test_a_preset_that_a_tokenizer_cannot_carry(codec) -> None:
    with pytest.raises(PromptError, match="did you mean 'aligner-repo'"):
        PromptFormat.preset("aligner-rep", codec.tokenizer)


def test_a_row_that_cannot_be_encoded_is_named_by_file_and_line(tmp_path) -> None:
    tokenizer = tilde_tokenizer()
    codec, prompt = TextCodec(tokenizer), PromptFormat.preset("chat", tokenizer)
    rows = [{"question": f"q{i}", "answer": "a", "correction": "c"} for i in range(3)]
    rows.append({"question": "q", "answer": "about ~ 5", "correction": "5"})
    config = tiny_config(write_rows(tmp_path / "d.jsonl", rows), tmp_path / "run", held_out=0)
    with pytest.raises(DataError, match=r"d\.jsonl:4: the text holds '~'.*special token"):
        prepare(config, data_files(config.data), prompt, codec, tmp_path / "rows")
    bad = Triplet(**rows[-1], source="some", id="17")
    with pytest.raises(DataError, match=r"the row '17' of 'some': the text holds '~'"):
        HeldOut.build([bad], prompt, codec, 96)
    good = tiny_config(write_rows(tmp_path / "good.jsonl", rows[:3]), tmp_path / "run", held_out=0, max_length=256)
    mix = write_rows(tmp_path / "mix.jsonl", [{"text": "fine"}, {"text": "not ~ fine"}])
    with pytest.raises(DataError, match=r"mix\.jsonl:2: the text holds '~'"):
        prepare(good, data_files(good.data), prompt, codec, tmp_path / "rows", mix=[mix])


def test_mixed_rows_join_both_stages_in_the_stages_proportion(tmp_path, codec, prompt) -> None:
    data = write_rows(tmp_path / "d.jsonl", toy_rows(100))
    mixed = [{"text": f"fact {i}"} for i in range(300)] + [
        {"prompt": f"ask {i}", "completion": "ok"} for i in range(300)
    ]
    mixed += [{"text": "  "}, {"text": "alpha " * 200}]
    mix = write_rows(tmp_path / "mix.jsonl", mixed)
    config = tiny_config(data, tmp_path / "run", held_out=0, warmup=Warmup(share=0.2))

    def stages(name: str, config: TrainConfig, mix: list[Path]) -> Prepared:
        return prepare(config, data_files(config.data), prompt, codec, tmp_path / name, mix=mix)

    with_mix, without = stages("a", config, [mix]), stages("b", config, [])
    assert (with_mix.train, with_mix.mixed, without.mixed) == (100, 600, 0)
    assert with_mix.dropped == {"mixed_blank": 1, "mixed_too_long": 1}
    assert len(with_mix.stages["residual"]) == 700
    extra = len(with_mix.stages["warmup"]) - len(without.stages["warmup"])
    assert 0.14 < extra / 600 < 0.26  # three and a half standard deviations of a fifth
    residual = [tuple(ids) for ids in with_mix.stages["residual"]["input_ids"]]
    assert set(map(tuple, with_mix.stages["warmup"]["input_ids"][-extra:])) < set(residual[100:])
    last = with_mix.stages["residual"][699]
    assert codec.decode([i for i in last["labels"] if i >= 0]) == "ok"
    assert all(label >= 0 for label in with_mix.stages["residual"][100]["labels"]), "a text is learned whole"
    other = stages("c", config.model_copy(update={"seed": 7}), [mix])
    picked = [set(map(tuple, p.stages["warmup"]["input_ids"])) for p in (with_mix, other)]
    assert picked[0] != picked[1]


def test_mixed_rows_that_are_all_too_long_name_the_length(tmp_path, codec, prompt) -> None:
    data = write_rows(tmp_path / "d.jsonl", toy_rows(10))
    mix = write_rows(tmp_path / "mix.jsonl", [{"text": "omega " * 40}, {"text": "omega " * 50}])
    config = tiny_config(data, tmp_path / "run", held_out=0)
    needed = len(codec.encode("omega " * 50)) + 1
    with pytest.raises(DataError, match=rf"mix: all 2 .*longest needs {needed}: set max_length"):
        prepare(config, data_files(config.data), prompt, codec, tmp_path / "rows", mix=[mix])
    longer = config.model_copy(update={"max_length": needed})
    assert prepare(longer, data_files(config.data), prompt, codec, tmp_path / "rows", mix=[mix]).mixed == 2
