"""An answer in any pieces, for any tokenizer: what the cache holds is what the whole prompt's ids are."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aligner.correct.reading import common
from aligner.errors import PromptError
from tests.models import SENTENCES, TOKENIZERS, tiny_aligner
from tests.reading import followed

WORDS = [word + blank for sentence in SENTENCES for word in sentence.split() for blank in ("", " ", "\n")]
ANSWER = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)), max_size=40).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("prompt", ["chat", "aligner-v1"])
def test_ids_equal_those_of_the_whole_prompt(name: str, prompt: str, monkeypatch) -> None:
    aligner = tiny_aligner(tokenizer=TOKENIZERS[name](), prompt=prompt, context=1024)
    loop = aligner._loop
    monkeypatch.setattr(loop, "start", lambda: loop)  # turns are taken here

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(question=st.sampled_from(SENTENCES), answer=ANSWER, data=st.data())
    def holds(question: str, answer: str, data) -> None:
        session = aligner.open(question)
        try:
            whole = aligner.card.prompt.encode(aligner.codec, session._chat, answer).ids
        except PromptError:
            whole = None
        rest, reading = answer, session._row.reading
        while rest:
            cut = data.draw(st.integers(1, len(rest)))
            session.push(rest[:cut])
            rest = rest[cut:]
            if data.draw(st.booleans()):
                loop.turn()
        assert session.text == answer
        if whole is not None and reading is not None and reading.read and answer.isascii() and prompt == "chat":
            # Only the last word may part; that is what makes reading ahead worth it.
            assert common(reading.read, whole) >= len(reading.read) - 24

        async def finish():
            task = asyncio.ensure_future(session.finish())
            await asyncio.sleep(0)
            while not task.done():
                loop.turn()
                await asyncio.sleep(0)
            return task.result()

        correction = asyncio.run(finish())
        if whole is not None:
            assert correction.completion.usage.prompt_tokens in (len(whole), 0)
        assert loop.open_rows == 0 or not loop.turn()

    with followed(loop, monkeypatch):
        holds()
    aligner.close()
