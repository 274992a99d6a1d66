"""Sentences: cutting a text, aligning two, training rows, and corrections that are shown sentence by sentence."""

from __future__ import annotations

import asyncio
import itertools
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner import Aligner, PromptFormat, Sampling, Triplet, edits
from aligner.correct import sentences
from aligner.correct.card import AlignerCard
from aligner.correct.guards import GuardPolicy
from aligner.correct.sentences import Splitter, split
from aligner.errors import CheckpointError, ConfigError, DataError
from aligner.train.sentences import aligned, sentence_rows
from aligner.types import Completion
from tests.models import byte_bpe_tokenizer, tiny_model


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One. ", "Two! ", "Three?"]),
        ("He said “no.” Then he left.", ["He said “no.” ", "Then he left."]),
        ("Dr. Who is 3.5 m tall, e.g. here. Yes.", ["Dr. Who is 3.5 m tall, e.g. here. ", "Yes."]),
        ("1. Wash it.\n2. Cook it.\n", ["1. Wash it.\n", "2. Cook it.\n"]),
        ("她来了。他走了。", ["她来了。", "他走了。"]),
        ("See:\n```\na. b\nc\n```\nDone.", ["See:\n", "```\na. b\nc\n```\n", "Done."]),
        ("  \n ", ["  \n "]),
        ("", []),
    ],
)
def test_cuts(text: str, expected: list[str]) -> None:
    assert split(text) == expected


PIECES = st.lists(
    st.sampled_from(["A b", ".", " ", "\n", "!", "Dr.", "1.", "```", "。", "”", "three", "  "]), max_size=30
)


@settings(deadline=None)
@given(pieces=PIECES)
def test_sentences_do_not_depend_on_the_pieces_and_join_to_the_text(pieces: list[str]) -> None:
    splitter = Splitter()
    found = [*itertools.chain.from_iterable(splitter.push(p) for p in pieces), *splitter.push("", final=True)]
    assert found == split("".join(pieces))
    assert "".join(found) == "".join(pieces)


def by_definition(text: str) -> list[str]:
    """The sentences of a text, each place for a cut looked at with all that is before it."""
    cut = regex.compile(r"(?:[.!?…]+[\"'”’)\]*_]*\s+|[。！？]+[”’」』）]*\s*|\n\s*)", regex.V1)
    fence = regex.compile(r"^\s*(?:```|~~~)", regex.M)
    found, start, at = [], 0, 0
    while (place := cut.search(text, at)) and (at := place.end()) < len(text):
        sentence = text[start:at]
        if (
            len(fence.findall(sentence)) % 2
            or sum(c.isalnum() for c in sentence) < 2
            or sentences._NONE.search(sentence)
        ):
            continue
        found.append(sentence)
        start = at
    return [*found, text[start:]] if text[start:] else found


CUTTING = st.text(st.sampled_from("a甲1.!?…。\"'”)]*_」 \t\n\r\x1c\u2028`~(")) | PIECES.map("".join)
LINES = st.lists(st.sampled_from(
    ["```", "```py", "  ```", "~~~", "a. ```", "x = 1.", "Dr. No.", "1)  ", "(2)", "e.g.", "", "  ", "Yes.", "。```b。"]
)).map("\n".join)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(text=CUTTING | LINES, sizes=st.lists(st.integers(0, 5)))
def test_sentences_are_what_they_are_by_definition_however_the_text_comes(text: str, sizes: list[int]) -> None:
    splitter, found, at = Splitter(), [], 0
    for size in [*sizes, len(text)]:
        found += splitter.push(text[at : at + size])
        at += size
        whole = by_definition(text[:at])  # all but the last are whole, and the last as soon as more than blanks follows
        assert [*found, *whole[len(found) :]] == whole
        assert len(found) >= len(whole) - 1 or text[:at].endswith((" ", "\t", "\n"))
    assert [*found, *splitter.push("", final=True)] == by_definition(text)


class Counting:
    """A pattern that counts the characters that it is given."""

    def __init__(self, pattern: Any) -> None:
        self.pattern, self.seen = pattern, 0

    def search(self, text: str, at: int = 0) -> Any:
        return self._counted(self.pattern.search(text, at), len(text), at)

    def match(self, text: str) -> Any:
        return self._counted(self.pattern.match(text), len(text), 0)

    def _counted(self, found: Any, size: int, at: int) -> Any:
        self.seen += (size if found is None else found.end()) - at
        return found


@pytest.mark.parametrize(
    "text",
    ["```\n" + "x = a.b(1); y. z\n" * 400, "word " * 1000, "word. " * 1000, "\n" * 4000, "." * 4000, ")" * 4000,
     "a.\n" + " " * 4000, "1.\n" * 1500],
    ids=lambda text: ascii(text[:8]),
)  # fmt: skip
def test_the_work_is_linear_in_a_text_that_comes_in_small_pieces(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(size: int) -> int:
        counting = [Counting(getattr(sentences, name)) for name in names]
        for name, pattern in zip(names, counting, strict=True):
            monkeypatch.setattr(sentences, name, pattern)
        splitter = Splitter()
        for i in range(0, size, 3):
            splitter.push(text[:size][i : i + 3])
        monkeypatch.undo()
        return sum(pattern.seen for pattern in counting)

    names = ("_CUT", "_NONE", "_FENCE")
    assert work(len(text)) < 3 * work(len(text) // 2) + 100


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (["a b c.", "d e f."], ["a b c.", "d e x."], [["a b c."], ["d e x."]]),
        (["a b c.", "d e f."], ["d e f."], [[], ["d e f."]]),  # left out
        (["a b c.", "d e f."], ["a b c.", "k l m.", "d e f."], [["a b c."], ["k l m.", "d e f."]]),  # added
        (["a b c."], ["k l m.", "a b c.", "x y z."], [["k l m.", "a b c.", "x y z."]]),
        (["a b c.", "d e f."], ["k l m.", "d e f."], [["k l m."], ["d e f."]]),  # replaced
        (["a b c.", "d e f.", "g h i."], ["k l m."], [["k l m."], [], []]),  # a refusal
        (["a b c."], [], [[]]),
        ([], ["a b c."], []),
    ],
)
def test_alignment(old, new, expected) -> None:
    assert aligned(old, new) == expected


def best_by_trying(old: list[str], new: list[str]) -> float:
    """The best sum of shares over all pairings that do not cross, tried one by one."""

    def lcs(a: list[str], b: list[str]) -> int:
        if not a or not b:
            return 0
        return 1 + lcs(a[1:], b[1:]) if a[0] == b[0] else max(lcs(a[1:], b), lcs(a, b[1:]))

    def share(a: str, b: str) -> float:
        x, y = edits.words(a), edits.words(b)
        found = 2 * lcs(x, y) / (len(x) + len(y))
        return found if found > 0.34 else 0.0

    best = 0.0
    for size in range(min(len(old), len(new)) + 1):
        for a in itertools.combinations(old, size):
            for b in itertools.combinations(new, size):
                best = max(best, sum(map(share, a, b)))
    return best


WORDY = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4).map(" ".join), max_size=4)


@settings(deadline=None, max_examples=60)
@given(old=WORDY, new=WORDY)
def test_alignment_is_the_best_there_is_and_loses_nothing(old: list[str], new: list[str]) -> None:
    from aligner.train.sentences import _pairs, _share

    words = [edits.words(s) for s in old], [edits.words(s) for s in new]
    pairs = _pairs(*words)
    assert sum(_share(words[0][i], words[1][j]) for i, j in pairs) == pytest.approx(best_by_trying(old, new))
    assert all(a < b and c < d for (a, c), (b, d) in itertools.pairwise(pairs))
    if old:
        assert [s for place in aligned(old, new) for s in place] == new


def test_rows_of_a_triplet() -> None:
    triplet = Triplet(
        question="q", answer="The sky is green. I hate you.  It is big.\n",
        correction="The sky is blue. It is big. It is far.", id="7",
    )  # fmt: skip
    rows = [(r.prefix, r.triplet.answer, r.behind, r.triplet.correction) for r in sentence_rows(triplet)]
    assert rows == [
        ("", "The sky is green.", " ", "The sky is blue."),
        ("The sky is blue.", "I hate you.", "  ", ""),
        ("The sky is blue.", "It is big.", "", "It is big. It is far."),
    ]
    assert [r.triplet.correction for r in sentence_rows(triplet.identity())] == [r[1] for r in rows]
    assert list(sentence_rows(Triplet(question="q", answer=" ", correction="x"))) == []


def test_prompts_of_sentences_are_saved_and_told_apart(tmp_path) -> None:
    from aligner.tokens import TextCodec

    codec = TextCodec(byte_bpe_tokenizer())
    whole = PromptFormat.preset("chat", byte_bpe_tokenizer())
    form = replace(whole, unit="sentence")
    assert "unit" not in whole.to_json(), "cards of correctors of whole answers stay as they are"
    assert PromptFormat.from_json(form.to_json()) == form
    with pytest.raises(CheckpointError, match="unit"):
        PromptFormat.from_json(form.to_json() | {"unit": "word"})
    chat = Triplet(question="q", answer="", correction="").chat
    ids = form.encode(codec, chat, "Next one. ", prefix="Before.").ids
    known = form.encode_open(codec, chat, "Before.")
    after = codec.encode_fixed(form.after)
    assert ids == (*known, *after, *codec.encode("Next one. "), *after)
    assert form.encode(codec, chat, "Next one.", prefix="Before.").ids != ids


@pytest.fixture
def aligner():
    tokenizer = byte_bpe_tokenizer()
    form = replace(PromptFormat.preset("chat", tokenizer, instruction="", request=""), unit="sentence")
    card, short = AlignerCard(prompt=form), Sampling(max_new_tokens=4)
    with Aligner(tiny_model("llama", tokenizer, context=2048), tokenizer, card, sampling=short) as made:
        yield made


def rules(aligner: Aligner, monkeypatch, **written: str) -> list[tuple[str, str]]:
    """The corrector writes by rules, sentence by sentence; returns what it is asked."""
    asked: list[tuple[str, str]] = []
    jobs = aligner._jobs()

    def watched(chat, answer, sampling, *, gate, prefix, behind):
        asked.append((prefix, answer + behind))
        return jobs.job(chat, answer, sampling, gate=gate, prefix=prefix, behind=behind)

    def decided(made, ticket):
        correction = jobs.settle(made, ticket)
        text = next((new for old, new in written.items() if old in made.answer), made.answer)
        completion = Completion(text=text, finish_reason="stop", usage=correction.completion.usage)
        return replace(correction, completion=completion)

    monkeypatch.setattr(aligner, "_jobs", lambda _: SimpleNamespace(job=watched, settle=decided))
    return asked


def test_sentences_are_shown_while_the_answer_is_written(aligner, monkeypatch) -> None:
    asked = rules(aligner, monkeypatch, Two="Deux.", Three="", Four="Quatre 猫.")

    async def main():
        session = aligner.open("q")
        shown: list[str] = []
        deltas = session.live()
        session.push("One. Two. Th")
        shown += [(await anext(deltas)).text, (await anext(deltas)).text]
        assert shown == ["One.", " Deux."], "before the answer is whole"
        session.push("ree. Four.\n")
        session.end()
        last = [delta async for delta in deltas]
        return "".join([*shown, *(d.text for d in last)]), last[-1]

    text, last = asyncio.run(main())
    # "Three." goes; the correction of "Four." fails a guard, so the sentence stays.
    assert text == "One. Deux. Four.\n"
    assert last.kept_because is None
    assert asked == [("", "One. "), ("One.", "Two. "), ("One. Deux.", "Three. "), ("One. Deux.", "Four.")]


def test_whole_answers_too_in_batches(aligner, monkeypatch) -> None:
    rules(aligner, monkeypatch, Two="Deux.", Four="Quatre 猫.")
    done = list(aligner.correct_batch([("q", "One. Two.\n"), ("q", "Four."), ("q", "One.")]))
    assert [c.text for c in done] == ["One. Deux.\n", "Four.", "One."]
    assert [c.kept_because for c in done] == [None, "script_leak", None]
    assert done[1].flags == ("kept_sentences:script_leak:1",)
    assert done[2].is_copy
    assert done[0] == asyncio.run(aligner.acorrect("q", "One. Two.\n"))


def test_no_answer_of_a_batch_waits_for_those_behind_it(aligner, monkeypatch) -> None:
    shown = threading.Event()
    made = aligner._session

    def session(question, *given, **options):
        async def finish(answer):
            if question == "slow":
                await asyncio.to_thread(shown.wait, 20)
            return await whole(answer)

        found = made(question, *given, **options)
        whole, found.finish = found.finish, finish
        return found

    monkeypatch.setattr(aligner, "_session", session)
    done = aligner.correct_batch([("q", "One."), ("slow", "Two.")])
    assert next(done).answer == "One."
    shown.set()
    assert next(done).answer == "Two."


def test_the_policy_holds_for_each_sentence_and_the_format_for_the_whole(aligner, monkeypatch) -> None:
    rules(aligner, monkeypatch, Four="Quatre 猫.", One='{"a": 1}', Six='Six".')
    aligner.guards = GuardPolicy(script_leak="report")
    done = aligner.correct("q", "Two. Four.")
    assert (done.text, done.kept_because, done.flags) == ("Two. Quatre 猫.", None, ("script_leak",))
    form = {"type": "json_object"}
    assert aligner.correct("q", '{"One": 2}', response_format=form).text == '{"a": 1}'
    kept = aligner.correct("q", '{"Two": 2, "x": "a. Six. b"}', response_format=form)
    assert (kept.text, kept.kept_because) == ('{"Two": 2, "x": "a. Six. b"}', "broken_format")


JSON = '{"text": "One thing. Four."}'


@pytest.mark.parametrize("form", [None, {"type": "json_object"}])
@pytest.mark.parametrize(
    ("new", "shown", "kept"), [("Five", JSON, "broken_format"), ('Five."}', JSON.replace("Four", "Five"), None)]
)
def test_json_is_streamed_in_one_piece(aligner, monkeypatch, form, new, shown, kept) -> None:
    rules(aligner, monkeypatch, Four=new)

    async def pieces(deltas):
        found = [delta async for delta in deltas]
        return [d.text for d in found if d.text], found[-1].kept_because

    async def main():
        assert await pieces(aligner.stream("q", JSON, response_format=form)) == ([shown], kept)
        session = aligner.open("q", response_format=form)
        deltas = session.live()
        session.push(JSON[:22])
        assert (await anext(deltas)).text == ""
        assert session.unshown == JSON[:22]
        session.push(JSON[22:])
        session.end()
        assert await pieces(deltas) == ([shown], kept)

    asyncio.run(main())


def test_json_of_which_a_sentence_fails_is_shown_as_it_was(aligner, monkeypatch) -> None:
    jobs = aligner._jobs()

    def failing(made, ticket):
        correction = jobs.settle(made, ticket)
        reason, text = ("error", "") if "Four" in made.answer else ("stop", made.answer)
        return replace(correction, completion=Completion(text=text, finish_reason=reason, error="no"))

    monkeypatch.setattr(aligner, "_jobs", lambda _: SimpleNamespace(job=jobs.job, settle=failing))

    async def main():
        deltas = [delta async for delta in aligner.stream("q", JSON)]
        assert [d.text for d in deltas if d.text] == [JSON]
        assert deltas[-1].kept_because == "error"

    asyncio.run(main())


@pytest.mark.parametrize("answer", ["[Note] One. Two.", "```python\nOne\n```\nTwo.", "{One. Two.", "One. [1] Two."])
def test_what_is_no_json_is_shown_at_once(aligner, monkeypatch, answer: str) -> None:
    rules(aligner, monkeypatch, Two="Deux.")

    async def main():
        session = aligner.open("q")
        session.push(answer)
        deltas = session.live()
        assert (await anext(deltas)).text
        await deltas.aclose()

    asyncio.run(main())


def test_an_answer_of_which_nothing_is_left_is_kept(aligner, monkeypatch) -> None:
    rules(aligner, monkeypatch, e="")
    done = aligner.correct("q", "One. Three.")
    assert (done.text, done.kept_because) == ("One. Three.", "emptied")


def test_leaving_early_leaves_nothing_behind(aligner) -> None:
    async def main() -> None:
        session = aligner.open("q")
        deltas = session.live()
        session.push("One. Two. Three. ")
        await anext(deltas)
        await deltas.aclose()
        for _ in range(300):
            if not aligner._loop._rows and not aligner._loop.open_rows:
                return
            await asyncio.sleep(0.02)
        pytest.fail("a row is left over")

    asyncio.run(main())


def test_gates_and_addresses_are_for_whole_answers(aligner) -> None:
    from aligner.correct.gate import NEVER, Gate
    from aligner.correct.remote import RemoteAligner

    with pytest.raises(ConfigError, match="sentence by sentence"):
        Aligner(aligner.model, aligner.tokenizer, aligner.card, gate=Gate(threshold=0.0))
    with pytest.raises(ConfigError, match="sentence by sentence"):
        aligner.with_gate(Gate(threshold=0.0))
    with pytest.raises(ConfigError, match="sentence by sentence"):
        aligner.correct_each([("q", "a", Sampling())], NEVER)
    with pytest.raises(DataError, match="sentence by sentence"):
        aligner.calibrate([])
    with pytest.raises(ConfigError, match="in process only"):
        RemoteAligner("http://localhost:1/v1", aligner.tokenizer, aligner.card, context=100)
