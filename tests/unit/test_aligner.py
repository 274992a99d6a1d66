"""Aligner: one answer, many, streamed; what is kept and why; multi-turn; saving."""

from __future__ import annotations

import asyncio
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from aligner import Aligner, Correction, Message, Sampling
from aligner.correct.card import AlignerCard
from aligner.correct.forward import Forward
from aligner.correct.gate import Gate
from aligner.correct.guards import GuardPolicy
from aligner.correct.pace import Pace
from aligner.correct.run import CorrectConfig
from aligner.errors import CheckpointError, DataError
from aligner.flags import apply_flags
from aligner.prompts import PromptFormat
from aligner.runs import Ancestor
from aligner.tokens import TextCodec
from aligner.train.config import Scratch
from aligner.train.scratch import build_model, train_tokenizer
from tests.models import chatml_tokenizer, llama2_tokenizer, tiny_aligner, unigram_tokenizer

TEXTS = ["the cat sat on the mat.", "a dog ran home, and slept.", "question answer correction", "日本語 ä ß 🙂"] * 4


@pytest.fixture(scope="module")
def parts():
    tokenizer = train_tokenizer(iter(TEXTS), 400)
    config = Scratch(layers=2, hidden=32, heads=2, vocabulary=400)
    model = build_model(config, tokenizer, 256, seed=0).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(10)
    card = AlignerCard(
        prompt=PromptFormat.preset("chat", tokenizer, instruction="", request=""),
        lineage=(Ancestor(role="data", name="x.jsonl", hash="0" * 64),),
    )
    return model, tokenizer, card


@pytest.fixture
def aligner(parts):
    with Aligner(*parts, max_rows=4) as made:
        yield made


def wrote(aligner: Aligner, monkeypatch, text: str, finish: str = "stop") -> None:
    """Make the corrector write a given text, so that what happens afterwards can be seen."""
    from aligner.correct.ticket import Decoded

    decoded = Decoded(ids=aligner.codec.encode(text), finish_reason=finish)
    monkeypatch.setattr(aligner._loop, "wait", lambda _ticket: decoded)


def test_batch_equals_one_by_one_and_keeps_order(aligner) -> None:
    pairs = [(f"question {i}", "the cat sat " * (i % 5 + 1)) for i in range(23)]
    batch = list(aligner.correct_batch(pairs))
    assert [c.answer for c in batch] == [a for _, a in pairs]
    assert batch == [aligner.correct(q, a) for q, a in pairs]
    assert list(aligner.correct_batch([])) == []


def test_verifying_the_answer_saves_passes_and_changes_nothing(parts) -> None:
    pairs = [(f"question {i}", "the cat sat " * (i % 5 + 1)) for i in range(12)]
    with Aligner(*parts, max_rows=4, speculate=False) as plain:
        expected = list(plain.correct_batch(pairs))
        again = [(c.question, c.completion.text) for c in expected if c.completion.finish_reason == "stop"] or pairs
        copied = list(plain.correct_batch(again))
        steps = plain._loop.forward_passes
    with Aligner(*parts, max_rows=4) as drafted:
        assert list(drafted.correct_batch(pairs)) == expected
        assert list(drafted.correct_batch(again)) == copied
        assert drafted._loop.forward_passes <= steps


@pytest.fixture(params=["measured", "always"])
def pace(request, monkeypatch) -> str:
    """How far is drafted: as passes cost here, or as far as there is something to draft."""
    if request.param == "always":
        monkeypatch.setattr(Pace, "fixed", property(lambda _: float("inf")))
    return request.param


def both_ways(build, pairs: list[tuple[str, str]]) -> list[Correction]:
    """Corrections without drafts, after those with drafts were found to be the same, in a batch and alone."""
    with build(speculate=False) as plain:
        expected = list(plain.correct_batch(pairs))
    with build(speculate=True) as drafted:
        assert list(drafted.correct_batch(pairs)) == expected
        assert [drafted.correct(*pair) for pair in pairs] == expected
    return expected


@pytest.mark.usefixtures("pace")
def test_an_empty_answer_is_corrected_alike_with_drafts_and_without(parts) -> None:
    found = both_ways(
        partial(Aligner, *parts, max_rows=4), [("q", ""), ("question", "the cat sat."), ("", ""), ("q", " ")]
    )
    assert found[0].answer == ""
    assert found[0].completion.usage.completion_tokens > 0


@pytest.mark.usefixtures("pace")
@pytest.mark.parametrize("build", [unigram_tokenizer, llama2_tokenizer, chatml_tokenizer])
def test_answers_that_their_tokenizer_changes_are_corrected_alike_with_drafts_and_without(build) -> None:
    """NFKC, characters without a piece, blanks at the ends: the draft does not spell the answer, and does no harm."""
    tokenizer = build()
    codec = TextCodec(tokenizer)
    answers = ["ﬁne ① ², Ｔｈｅ dog", "  the\u00a0dog … ½ ", "猫 😀 e\u0301 </s>", "The quick\r\n\r\nbrown fox\t"]
    if build is unigram_tokenizer:
        assert all(codec.decode(codec.encode(answer)) != answer for answer in answers)
    make = partial(tiny_aligner, "llama", tokenizer, sampling=Sampling(max_new_tokens=40), max_rows=3)
    found = both_ways(make, [(f"question {i}", answer) for i, answer in enumerate(answers)])
    # What it wrote, as answers: drafts that are right, as far as the text is read back as it was written.
    both_ways(make, [(f"question {i}", c.completion.text) for i, c in enumerate(found)])


def test_an_answer_that_fits_but_leaves_no_room_for_a_copy(parts, pace) -> None:
    """Whatever fits is written, alike with drafts and without, and a gate has nothing to decide by."""
    make = partial(Aligner, *parts, max_rows=4)
    answer = "the cat sat on the mat. "
    with make(speculate=False) as aligner:
        while len(aligner.codec.encode(answer)) < 150:
            answer += "a dog ran home. "
        length = len(aligner.codec.encode(answer))
    found = both_ways(make, [("q", answer), ("q", "the cat sat."), ("p", answer + "the cat"), ("q", answer)])
    usage = found[0].completion.usage
    assert usage.prompt_tokens + length > 256 >= usage.prompt_tokens + usage.completion_tokens
    with make(gate=Gate(threshold=-math.inf)) as aligner:
        gated = aligner.correct("q", answer)
    assert gated == found[0]
    assert gated.gate is None


def test_drafting_can_be_switched_off_by_a_flag() -> None:
    config = CorrectConfig.from_dict(
        apply_flags(CorrectConfig, {"aligner": "a", "input": "b", "output": "c"}, ["--speculate", "false"]), where="x"
    )
    assert config.speculate is False


def test_batches_are_read_lazily(aligner) -> None:
    """Of a long input only a window is taken before the first correction comes out."""
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield f"q{taken}", "the cat"

    results = aligner.correct_batch(endless())
    next(results)
    assert taken <= 2 * 4 + 1
    results.close()


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("the dog sat on the mat.", "stop", None),
        ("the cat sat on the mat.", "stop", None),
        ("the dog sat on the", "length", "cut"),
        ("", "stop", "emptied"),
        ("the cat sat 猫 on the mat.", "stop", "script_leak"),
        ("half", "cancelled", "cancelled"),
    ],
)
def test_what_is_kept_and_why(aligner, monkeypatch, text, finish, reason) -> None:
    answer = "the cat sat on the mat."
    wrote(aligner, monkeypatch, text, finish)
    correction = aligner.correct("what did the cat do?", answer)
    assert correction.kept_because == reason
    assert correction.text == (answer if reason else text)
    assert correction.completion.text == text
    assert correction.is_copy == (correction.text == answer)


def test_a_lost_fence_keeps_the_original(aligner, monkeypatch) -> None:
    answer = "Use this:\n```python\nfor x in range(10):\n    print(x + 1)\n```\nDone."
    wrote(aligner, monkeypatch, "Use this:\nfor x in range(10):\n    print(x + 1)\nDone.")
    assert aligner.correct("code?", answer).kept_because == "lost_code_fence"


def test_an_answer_that_does_not_fit_is_kept_at_once(aligner) -> None:
    before = aligner._loop.forward_passes
    correction = aligner.correct("q", "the cat sat on the mat. " * 200)
    assert correction.kept_because == "too_long"
    assert correction.text == correction.answer
    assert "takes 256" in (correction.completion.error or "")
    assert aligner._loop.forward_passes == before


def test_earlier_turns_are_dropped_to_fit_and_counted(aligner) -> None:
    chat = [
        Message(role="system", content="be kind " * 20),
        *[Message(role=role, content="the cat sat on the mat. " * 6) for role in ("user", "assistant") * 3],
        Message(role="user", content="and then?"),
    ]
    correction = aligner.correct(chat, "a dog ran home.")
    flags = [f for f in correction.flags if f.startswith("dropped_turns:")]
    assert len(flags) == 1
    assert 0 < int(flags[0].split(":")[1]) < len(chat)
    assert correction.kept_because != "too_long"
    assert correction.question == tuple(chat)
    assert aligner.correct(chat[-1:], "a dog ran home.").flags == ()


def test_openai_messages_and_bad_questions(aligner) -> None:
    as_dicts = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
        {"role": "user", "content": "x"},
    ]
    as_messages = [Message(**turn) for turn in as_dicts]
    assert aligner.correct(as_dicts, "a dog.") == aligner.correct(as_messages, "a dog.")
    with pytest.raises(DataError, match="ends with an assistant turn"):
        aligner.correct(as_dicts[:2], "a dog.")


def test_sampling_per_call_and_its_limit(aligner) -> None:
    short = aligner.correct("q", "the cat sat.", Sampling(max_new_tokens=3))
    assert short.completion.usage.completion_tokens <= 3
    hot = [aligner.correct("q", "the cat sat.", Sampling(temperature=3.0, seed=s)).completion.text for s in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


def test_failed_rows_are_values(aligner, monkeypatch) -> None:
    monkeypatch.setattr(Forward, "__call__", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("lost device")))
    correction = aligner.correct("q", "the cat.")
    assert (correction.kept_because, correction.text) == ("error", "the cat.")
    assert "lost device" in (correction.completion.error or "")


def test_stream_joins_to_the_same_correction(aligner) -> None:
    async def streamed(question: str, answer: str):
        return [delta async for delta in aligner.stream(question, answer)]

    for answer in ("the cat sat on the mat.", "日本語 ä 🙂"):
        whole = aligner.correct("q", answer)
        deltas = asyncio.run(streamed("q", answer))
        # A correction that came out empty has sent nothing yet, so the original goes out in its place.
        assert "".join(d.text for d in deltas) == (whole.completion.text or whole.text)
        assert deltas[-1].finish_reason == whole.completion.finish_reason
        assert deltas[-1].usage == whole.completion.usage
        assert deltas[-1].kept_because == whole.kept_because
        assert all(d.finish_reason is None for d in deltas[:-1])


def test_stream_of_what_does_not_fit_hands_the_answer_through(aligner) -> None:
    async def streamed(answer: str):
        return [delta async for delta in aligner.stream("q", answer)]

    answer = "the cat sat on the mat. " * 200
    deltas = asyncio.run(streamed(answer))
    assert "".join(d.text for d in deltas) == answer
    assert deltas[-1].kept_because == "too_long"


def test_leaving_a_stream_early_cancels_the_row(aligner) -> None:
    async def leave() -> None:
        stream = aligner.stream("q", "the cat sat on the mat.", Sampling(max_new_tokens=200))
        async for _ in stream:
            break
        await stream.aclose()
        for _ in range(200):
            if not aligner._loop._rows:
                return
            await asyncio.sleep(0.02)
        pytest.fail("the row is still decoding")

    asyncio.run(leave())


def test_overlapping_async_calls_share_the_batch_and_cancel_alone(aligner) -> None:
    async def together():
        tasks = [asyncio.create_task(aligner.acorrect(f"q{i}", "the cat sat.")) for i in range(6)]
        tasks[2].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(together())
    assert isinstance(found[2], asyncio.CancelledError)
    for i in (0, 1, 3, 4, 5):
        assert found[i] == aligner.correct(f"q{i}", "the cat sat.")


def test_save_and_load_give_the_same_corrector(aligner, tmp_path: Path) -> None:
    aligner.save_pretrained(tmp_path / "c")
    with Aligner.from_pretrained(tmp_path / "c", dtype="float32", device="cpu") as again:
        assert again.card == aligner.card
        assert again.correct("q", "the cat sat.") == aligner.correct("q", "the cat sat.")
    assert json.loads((tmp_path / "c" / "aligner.json").read_text())["lineage"][0]["role"] == "data"
    with Aligner.from_pretrained(str(tmp_path / "c"), prompt="aligner-repo", dtype="bfloat16") as other:
        assert other.card.prompt.name == "aligner-repo"
        assert other.card.lineage == aligner.card.lineage
        assert other.model.dtype == torch.bfloat16


def test_a_checkpoint_without_aligner_json_asks_for_the_format(aligner, tmp_path: Path) -> None:
    aligner.save_pretrained(tmp_path / "c")
    (tmp_path / "c" / "aligner.json").unlink()
    with pytest.raises(CheckpointError, match=r"aligner\.json.*prompt=.*aligner-v1"):
        Aligner.from_pretrained(tmp_path / "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "no 'prompt'"),
        ('{"version": 99, "prompt": {}}', "version 99"),
        ('{"version": 1, "prompt": {"name": "chat"}}', "'before'"),
    ],
)
def test_a_damaged_aligner_json(aligner, tmp_path: Path, text, message) -> None:
    aligner.save_pretrained(tmp_path / "c")
    (tmp_path / "c" / "aligner.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        Aligner.from_pretrained(tmp_path / "c")


def test_the_published_formats_put_their_own_space(parts, monkeypatch) -> None:
    model, tokenizer, _ = parts
    card = AlignerCard(prompt=PromptFormat.preset("aligner-v1", tokenizer))
    with Aligner(model, tokenizer, card) as aligner:
        wrote(aligner, monkeypatch, " the cat sat.")
        assert aligner.correct("q", "the dog sat.").text == "the cat sat."
        assert aligner.correct("q", " the dog sat.").text == " the cat sat."
        assert aligner.correct("USER: x", "a | b").flags == ("marker:USER:", "marker:|")


def test_a_published_format_streams_what_it_corrects(parts, monkeypatch) -> None:
    model, tokenizer, _ = parts
    card = AlignerCard(prompt=PromptFormat.preset("aligner-v1", tokenizer))

    async def streamed(aligner: Aligner, answer: str) -> str:
        return "".join([d.text async for d in aligner.stream("q", answer)])

    # What is written at random may be of any script, which would end the stream.
    with Aligner(model, tokenizer, card, guards=GuardPolicy(script_leak="off")) as aligner:
        for seed in range(6):
            aligner.sampling = Sampling(temperature=2.0, seed=seed, max_new_tokens=8)
            # A script of the answer's own: a foreign one would end the stream.
            whole = aligner.correct("q", "the cat sat 日本語.").completion.text
            assert asyncio.run(streamed(aligner, "the cat sat 日本語.")) == whole


def test_a_stream_that_fails_before_its_first_token_hands_the_answer_through(aligner, monkeypatch) -> None:
    async def streamed():
        return [delta async for delta in aligner.stream("q", "the cat.")]

    monkeypatch.setattr(Forward, "__call__", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("lost device")))
    deltas = asyncio.run(streamed())
    assert "".join(d.text for d in deltas) == "the cat."
    assert deltas[-1].kept_because == "error"


def test_cache_budget_is_passed_on(parts) -> None:
    with Aligner(*parts, cache_tokens=300) as aligner:
        pairs = [("q", "the cat sat on the mat.")] * 5
        assert len({c.text for c in aligner.correct_batch(pairs)}) == 1
        assert aligner._loop.cache_tokens == 300
