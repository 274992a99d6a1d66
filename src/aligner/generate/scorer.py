"""RewardScorer: reward and cost models, Hugging Face sequence classifiers that give an answer a number."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from aligner.config import nearest
from aligner.errors import CheckpointError, ConfigError, GenerationError, OutOfMemoryError
from aligner.generate.hf import Dtype, context_length, default_device, load_tokenizer
from aligner.prompts import question_text
from aligner.tokens import encodable
from aligner.types import Chat

Scores = dict[str, float | None]

CHAT, PAIR = "chat", "pair"


@dataclass(frozen=True, slots=True)
class _Text:
    """Token ids, and the segment of each where the model has segments."""

    ids: list[int]
    segments: list[int] | None = None


_Row = list[float] | Exception


@dataclass(slots=True)
class _Queue:
    """Answers that wait while a batch runs, in one event loop."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: list[tuple[_Text, asyncio.Future[_Row]]] = field(default_factory=list)


class RewardScorer:
    """Scores answers with a sequence classifier, in batches of similar length. More is better in every dimension.

    Args:
        model, tokenizer: the classifier, in eval mode.
        dimensions: label of the model for each dimension; "-label" turns the sign, as a cost wants it. Left out: every
            label under its own name.
        layout: how question and answer become one text: "chat" (the chat template), "pair" (two segments, as
            cross-encoders take them), or a text with {question} and {answer}. Left out: chat where there is a template,
            else pair.
        name: how reports call it.
        batch_size: answers per batch.

    `unscored` counts answers without a number, by reason: "not a number" and "too long" for the model.

    Raises:
        ConfigError: a dimension names no label of the model, or the layout is none.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        dimensions: Mapping[str, str] | None = None,
        layout: str | None = None,
        name: str = "scorer",
        batch_size: int = 16,
    ) -> None:
        self.model, self.tokenizer, self.name, self.batch_size = model, tokenizer, name, batch_size
        self.unscored: Counter[str] = Counter()
        labels = {str(label): int(i) for i, label in model.config.id2label.items()}
        wanted = dimensions or {label: label for label in labels}
        self.dimensions = {dimension: _label(dimension, label, labels) for dimension, label in wanted.items()}
        self.layout = layout or (CHAT if tokenizer.chat_template is not None else PAIR)
        if self.layout == CHAT and tokenizer.chat_template is None:
            raise ConfigError(f"{name}: the tokenizer has no chat template; give the layout pair, or a text with "
                              "{question} and {answer}")  # fmt: skip
        if self.layout not in (CHAT, PAIR) and not ("{question}" in self.layout and "{answer}" in self.layout):
            raise ConfigError(f"{name}: the layout is {self.layout!r}; give chat, pair, or a text with {{question}} "
                              "and {answer}")  # fmt: skip
        self._pads = _settle_padding(model, tokenizer)
        self._queues: dict[asyncio.AbstractEventLoop, _Queue] = {}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        dimensions: Mapping[str, str] | None = None,
        layout: str | None = None,
        device: str | None = None,
        dtype: Dtype = "auto",
        batch_size: int = 16,
    ) -> Self:
        """Load a classifier from a directory or by Hub id; the arguments as above and in `load_causal_lm`.

        Raises:
            CheckpointError: no classifier there, or one whose head is missing.
        """
        from transformers import AutoModelForSequenceClassification

        tokenizer = load_tokenizer(name)
        try:
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                str(name), dtype=dtype if dtype == "auto" else getattr(torch, dtype), output_loading_info=True
            )
        except Exception as e:
            why = (str(e).strip().splitlines() or [type(e).__name__])[0]
            raise CheckpointError(f"{name}: the scoring model cannot be loaded ({why})") from e
        if loading["missing_keys"]:
            missing = ", ".join(sorted(loading["missing_keys"])[:3])
            raise CheckpointError(f"{name}: no trained scoring head ({missing} would be random); give a sequence "
                                  "classification checkpoint, not a language model")  # fmt: skip
        try:
            model = model.to(device or default_device()).eval()
        except (torch.OutOfMemoryError, MemoryError) as e:
            raise OutOfMemoryError(f"{name}: the scoring model does not fit into memory; give another device") from e
        return cls(model, tokenizer, dimensions=dimensions, layout=layout, name=Path(name).name, batch_size=batch_size)

    async def score(self, question: Chat, answers: Sequence[str]) -> list[Scores]:
        """A number per dimension for every answer; None where the model gives none, or the text is too long for it.

        Calls that come while a batch runs share the next ones.

        Raises:
            GenerationError: the model failed, or its chat template refuses the conversation.
            OutOfMemoryError: one answer does not fit.
        """
        texts = [self._text(question, answer) for answer in answers]  # all, before any of them waits for a batch
        loop = asyncio.get_running_loop()
        queue = self._queues.setdefault(loop, _Queue())
        futures: list[asyncio.Future[_Row] | None] = []
        for text in texts:
            if len(text.ids) > min(context_length(self.model), self.tokenizer.model_max_length):
                futures.append(None)
                continue
            future: asyncio.Future[_Row] = loop.create_future()
            queue.waiting.append((text, future))
            futures.append(future)
        await asyncio.sleep(0)  # others that are ready to ask get into the same batch
        while any(f is not None and not f.done() for f in futures):
            async with queue.lock:
                await self._run_waiting(queue)
        if not queue.waiting and not queue.lock.locked():
            self._queues.pop(loop, None)
        return [self._scores(None if f is None else f.result()) for f in futures]

    async def _run_waiting(self, queue: _Queue) -> None:
        """One batch of what waits, of similar length."""
        queue.waiting.sort(key=lambda item: len(item[0].ids))
        batch, queue.waiting = queue.waiting[: self.batch_size], queue.waiting[self.batch_size :]
        if not batch:
            return
        try:
            rows: Sequence[_Row] = await asyncio.to_thread(self._run, [text for text, _ in batch])
        except asyncio.CancelledError:  # of whoever ran the batch; the answers of others wait for the next one
            queue.waiting.extend(batch)
            raise
        except Exception as e:  # each is told when it reads its row
            rows = [e] * len(batch)
        for (_, future), row in zip(batch, rows, strict=True):
            future.set_result(row)

    def _text(self, question: Chat, answer: str) -> _Text:
        asked, answer = encodable(question_text(question)), encodable(answer)
        if self.layout == PAIR:
            encoded = self.tokenizer(asked, answer)
            segments = encoded.get("token_type_ids")
            return _Text(list(encoded["input_ids"]), None if segments is None else list(segments))
        if self.layout == CHAT:
            messages = [{"role": m.role, "content": encodable(m.content)} for m in question]
            messages.append({"role": "assistant", "content": answer})
            from jinja2 import TemplateError

            try:
                return _Text(list(self.tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]))
            except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as e:
                roles = ", ".join(m["role"] for m in messages)
                raise GenerationError(
                    f"{self.name}: the scoring model's chat template takes no conversation of {roles} ({e})"
                ) from None
        # Cut before it is filled in: a question that holds "{answer}" stays as it is.
        before, _, after = self.layout.partition("{answer}")
        whole = before.replace("{question}", asked) + answer + after.replace("{question}", asked)
        return _Text(list(self.tokenizer(whole)["input_ids"]))

    def _scores(self, row: _Row | None) -> Scores:
        if isinstance(row, Exception):
            raise row
        if row is None:
            self.unscored["too long"] += 1
            return dict.fromkeys(self.dimensions)
        found: Scores = {d: sign * row[i] for d, (i, sign) in self.dimensions.items()}
        if not all(math.isfinite(value) for value in found.values() if value is not None):
            self.unscored["not a number"] += 1
        return {d: value if value is not None and math.isfinite(value) else None for d, value in found.items()}

    @torch.inference_mode()
    def _run(self, texts: list[_Text]) -> list[list[float]]:
        if not self._pads and len(texts) > 1:
            return [row for text in texts for row in self._run([text])]
        width, pad = max(len(t.ids) for t in texts), self.tokenizer.pad_token_id or 0

        def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=self.model.device)

        inputs = {"input_ids": padded([t.ids for t in texts], pad)}
        inputs["attention_mask"] = padded([[1] * len(t.ids) for t in texts], 0)
        if any(t.segments is not None for t in texts):
            inputs["token_type_ids"] = padded([t.segments or [] for t in texts], 0)
        logits: torch.Tensor | None = None
        try:
            logits = self.model(**inputs).logits
        except (torch.OutOfMemoryError, MemoryError) as e:
            if len(texts) == 1:
                raise OutOfMemoryError(f"{self.name}: not enough memory for one answer of {width} tokens") from e
        except RuntimeError as e:
            raise GenerationError(f"{self.name}: scoring failed ({str(e).splitlines()[0]})") from e
        if logits is None:  # only here is the error gone, and with it what the failed pass held
            del inputs
            middle = len(texts) // 2
            return self._run(texts[:middle]) + self._run(texts[middle:])
        rows: list[list[float]] = logits.float().cpu().tolist()
        return rows


def _label(dimension: str, label: str, labels: Mapping[str, int]) -> tuple[int, float]:
    """The column of a label and its sign."""
    name = label.removeprefix("-") if label not in labels else label
    if name not in labels:
        raise ConfigError(f"dimension '{dimension}': the model has no label '{name}'; {nearest(name, list(labels))}")
    return labels[name], 1.0 if label in labels else -1.0


def _settle_padding(model: Any, tokenizer: Any) -> bool:
    """Whether texts may be padded: decoders score at the last token that is not their configuration's pad token."""
    config, pad = model.config.get_text_config(), tokenizer.pad_token_id
    # An end token in the place of padding would move the score from the answer's own end to the token before it.
    if config.pad_token_id is None and pad != tokenizer.eos_token_id:
        config.pad_token_id = pad
    return pad is not None and config.pad_token_id == pad
