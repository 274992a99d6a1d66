"""LoopGenerator: an upstream in process whose answers the step loop decodes.

`generate()` runs every batch to its longest answer; here a row that is done makes room for the next one. And a sampled
answer is drawn from the row's own source: it is the same whatever else is in the batch, and after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

from aligner.correct.decoding import StepLoop
from aligner.correct.forward import Forward
from aligner.correct.ticket import Decoded, Request
from aligner.errors import AlignerError, CheckpointError, PromptError
from aligner.generate.hf import DEFAULT_NEW_TOKENS, Dtype, HFGenerator, context_length, steered
from aligner.types import Chat, Completion, Generator, Sampling, Usage

_WINDOW = 8
"""Prompts that are encoded ahead, in batches: enough to put those of one length together."""


class LoopGenerator:
    """An upstream that runs in process through the step loop.

    Args:
        model, tokenizer: as `load_causal_lm` gives them.
        name: how reports call it.
        max_rows: answers that are written at the same time.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, max_rows: int = 64) -> None:
        self.name, self.max_rows = name, max_rows
        self._upstream = HFGenerator(model, tokenizer, name=name)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: str | None = None, dtype: Dtype = "auto", max_rows: int = 64
    ) -> Self:
        """Load a model from a directory or by Hub id.

        Raises:
            CheckpointError: no model there.
        """
        loaded = HFGenerator.from_pretrained(name, device=device, dtype=dtype)
        return cls(loaded.model, loaded.tokenizer, name=loaded.name, max_rows=max_rows)

    async def generate(self, chats: Sequence[Chat], sampling: Sampling) -> AsyncIterator[tuple[int, Completion]]:
        """Answer every chat; one that the template refuses, that does not fit, or whose pass failed, is a failed
        completion.

        Raises:
            CheckpointError: the step loop cannot decode this model.
        """
        running = asyncio.get_running_loop()
        done: asyncio.Queue[tuple[int, int, Future[Decoded]]] = asyncio.Queue()
        stops = frozenset(self._upstream.stop_ids())
        most = sampling.max_new_tokens or DEFAULT_NEW_TOKENS
        waiting: list[tuple[int, list[int]]] = []
        asked = in_flight = 0
        with StepLoop(self._upstream.model, max_rows=self.max_rows) as loop:
            loop.start()
            context = loop.context or context_length(self._upstream.model)
            while True:
                if not waiting and asked < len(chats):
                    window = range(asked, min(asked + _WINDOW * self.max_rows, len(chats)))
                    for i in window:
                        try:
                            waiting.append((i, self._upstream.prompt_ids(chats[i])))
                        except PromptError as e:
                            yield i, Completion(text="", finish_reason="error", error=f"{self.name}: {e}")
                    waiting.sort(key=lambda item: len(item[1]), reverse=True)
                    asked = window.stop
                while waiting and in_flight < 2 * self.max_rows:
                    i, ids = waiting.pop()
                    if not 0 < len(ids) < context:
                        error = f"the prompt has {len(ids)} tokens; this model takes 1 to {context - 1}"
                        yield i, Completion(text="", finish_reason="error", error=error)
                        continue
                    request = Request(
                        prompt=tuple(ids), max_new_tokens=min(most, context - len(ids)), stop_ids=stops,
                        sampling=sampling,
                    )  # fmt: skip
                    in_flight += 1

                    def tell(future: Future[Decoded], i: int = i, prompt: int = len(ids)) -> None:
                        if not running.is_closed():
                            running.call_soon_threadsafe(done.put_nowait, (i, prompt, future))

                    loop.submit(request).future.add_done_callback(tell)
                if not in_flight:
                    if asked == len(chats) and not waiting:
                        return
                    continue
                i, prompt, future = await done.get()
                in_flight -= 1
                yield i, self._completion(prompt, future)

    def _completion(self, prompt: int, future: Future[Decoded]) -> Completion:
        try:
            decoded = future.result()
        except AlignerError as e:
            return Completion(text="", finish_reason="error", error=f"{self.name}: {e}")
        text = self._upstream.tokenizer.decode(
            decoded.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        usage = Usage(prompt_tokens=prompt, completion_tokens=len(decoded.ids))
        return Completion(text=text, finish_reason=decoded.finish_reason, usage=usage)


def load_upstream(
    name: str | Path, *, device: str | None = None, dtype: Dtype = "auto", max_rows: int = 64
) -> Generator:
    """An upstream in process, through the step loop where that writes what the model would, else through `generate()`.

    The loop knows nothing of penalties and the like in a checkpoint's generation config, and may read less at a time.

    Raises:
        CheckpointError: no model there.
    """
    loaded = HFGenerator.from_pretrained(name, device=device, dtype=dtype, batch_size=max_rows)
    if steered(loaded.model):
        return loaded
    try:
        forward = Forward(loaded.model)
    except CheckpointError:
        return loaded
    forward.close()
    if forward.context is not None and forward.context < context_length(loaded.model):
        return loaded
    return LoopGenerator(loaded.model, loaded.tokenizer, name=loaded.name, max_rows=max_rows)
