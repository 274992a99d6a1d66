"""The one step loop: every in-process correction is a row of it, whether batched, streamed, sampled or cancelled.

Rows join and leave between steps. A row that joins is read in one forward pass (prefill), which also gives its first
token; then all rows advance by one token per step. One thread at a time owns the model; everybody else holds tickets.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from inspect import signature
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aligner.correct.cache import SlabCache, Window
from aligner.correct.sampling import draw, row_generator
from aligner.correct.ticket import Decoded, Request, Row, Ticket
from aligner.errors import CheckpointError, ConfigError, GenerationError, OutOfMemoryError

_LAYER_TYPES = {"full_attention", "sliding_attention"}


class StepLoop:
    """Decodes any number of requests with one model, `max_rows` at a time.

    Args:
        model: a transformers causal LM with full or sliding-window attention, in eval mode.
        max_rows: rows that are in the batch at once; more wait their turn.
        prefill_tokens: padded tokens that one prefill pass reads at most (one longer row is read alone).
        cache_tokens: positions that the cache may hold, rows × longest row; None leaves it to `max_rows`.

    Who waits for a ticket drives the loop (`wait`); `start` gives it a thread of its own, for callers that must not
    block. Driving from the caller matters: a second thread that runs torch brings a second OpenMP pool, and the two
    then share the cores badly (measured: a third slower).

    Raises:
        CheckpointError: the model's layers keep another state than keys and values.
    """

    def __init__(
        self, model: Any, *, max_rows: int = 64, prefill_tokens: int = 8192, cache_tokens: int | None = None
    ) -> None:
        if max_rows < 1:
            raise ConfigError(f"max_rows is {max_rows}; it must be 1 or more")
        config = model.config.get_text_config()
        unknown = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
        head = model.get_output_embeddings()
        attention = config._attn_implementation
        problem = f"layers of type {', '.join(sorted(unknown))}" if unknown else None
        if head is None:
            problem = "no output layer"
        elif "position_ids" not in signature(model.forward).parameters:
            problem = "no position_ids"
        elif attention not in ("sdpa", "eager"):
            problem = f"attention of the kind {attention}"
        if problem is not None:
            raise CheckpointError(
                f"{type(model).__name__} has {problem}, which the step loop cannot decode; use a decoder with full or "
                "sliding-window attention, loaded with attn_implementation sdpa or eager"
            )
        self.model = model
        self.max_rows = max_rows
        self.prefill_tokens = prefill_tokens
        self.cache_tokens = cache_tokens
        self.forward_passes = 0
        self._sliding: int | None = getattr(config, "sliding_window", None)
        self._layer_types = set(getattr(config, "layer_types", None) or ())
        self._cache = SlabCache(config.num_hidden_layers)
        self._eager = attention == "eager"
        self._wanted: tuple[Tensor, Tensor] | None = None
        self._hook = head.register_forward_pre_hook(self._select)
        self._rows: list[Row] = []
        self._joining: list[Row] = []
        self._waiting: deque[Ticket] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._driver = threading.Lock()
        self._closed = False

    # -- for everybody -------------------------------------------------------------------------------------------

    def submit(self, request: Request, on_token: Callable[[int], None] | None = None) -> Ticket:
        """Queue a request; `on_token` is called on the loop's thread with each new id.

        Raises:
            ConfigError: an empty prompt, or nothing to generate.
            GenerationError: the loop is closed.
        """
        if not request.prompt or request.max_new_tokens < 1:
            raise ConfigError("a request needs at least one prompt token and max_new_tokens of at least 1")
        ticket = Ticket(request, on_token)
        with self._wake:
            if self._closed:
                raise GenerationError("the corrector is closed; load it again")
            self._waiting.append(ticket)
            self._wake.notify()
        return ticket

    def wait(self, ticket: Ticket) -> Decoded:
        """The ticket's result; without a thread of its own, the loop runs on the caller's until then.

        Raises:
            GenerationError, OutOfMemoryError: the pass that this row was in failed.
        """
        while self._thread is None and not ticket.future.done():
            if self._driver.acquire(timeout=0.01):
                try:
                    while self._thread is None and not self._closed and not ticket.future.done():
                        self.turn()
                finally:
                    self._driver.release()
        return ticket.future.result()

    def start(self) -> Self:
        """Give the loop its own thread; a second call does nothing."""
        with self._wake:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="aligner-step-loop", daemon=True)
                self._thread.start()
        return self

    def close(self) -> None:
        """Stop the thread, fail what is unfinished, and give the cache's memory back."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._driver:
            self._close()

    def _close(self) -> None:
        self._hook.remove()
        self._fail(
            [row.ticket for row in self._rows] + list(self._waiting), GenerationError("the corrector was closed")
        )
        self._rows, self._waiting = [], deque()
        self._cache.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the loop ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._waiting or self._rows)
                if self._closed:
                    return
            with self._driver, suppress(Exception):  # whoever it concerns has been told by then
                self.turn()

    @torch.inference_mode()
    def turn(self) -> bool:
        """One round: rows leave, rows join, every row advances by one token. False when there is nothing to do."""
        try:
            self._leave()
            while joiners := self._next_joiners():
                self._guarded(joiners, self._prefill)
                self._leave()
            if self._rows:
                self._guarded(self._rows, self._step)
                self._leave()
        except BaseException:
            # Ctrl-C on the thread that drives, or a fault of ours: nobody may wait for ever for rows in mid-air.
            self._fail([row.ticket for row in [*self._rows, *self._joining]], GenerationError("interrupted"))
            self._rows, self._joining = [], []
            self._cache.clear()
            raise
        return bool(self._rows or self._waiting)

    def _guarded(self, rows: list[Row], advance: Callable[[list[Row]], None]) -> None:
        """Advance rows; a failure becomes the answer of exactly the rows that were in the failed pass."""
        try:
            advance(rows)
        except Exception as e:
            memory = isinstance(e, torch.OutOfMemoryError | MemoryError) or "alloc" in str(e)
            if memory and len(rows) > 1 and advance == self._prefill and not any(row.out for row in rows):
                for row in rows:  # one by one they may still fit
                    self._guarded([row], advance)
                return
            self._drop(rows, GenerationError(f"the corrector failed: {e}") if not memory else _no_memory())

    def _drop(self, rows: list[Row], error: Exception) -> None:
        self._fail([row.ticket for row in rows], error)
        self._retain([row for row in self._rows if row not in rows])
        if not self._rows:
            self._cache.clear()

    def _next_joiners(self) -> list[Row]:
        """The longest run of waiting requests that fits beside the rows and in one prefill pass."""
        joiners = self._joining = []
        widest = reach = 0
        for row in self._rows:
            reach = max(reach, _reach(row.ticket.request))
        with self._wake:
            while self._waiting and len(self._rows) + len(joiners) < self.max_rows:
                ticket = self._waiting[0]
                if not ticket.cancelled:
                    count = len(joiners) + 1
                    wider = max(widest, len(ticket.request.prompt))
                    further = max(reach, _reach(ticket.request))
                    if joiners and wider * count > self.prefill_tokens:
                        break
                    total = (len(self._rows) + count) * further
                    if self.cache_tokens is not None and total > self.cache_tokens and (joiners or self._rows):
                        break
                    widest, reach = wider, further
                    joiners.append(Row(ticket=ticket, length=0))
                self._waiting.popleft()
                if ticket.cancelled and not ticket.future.done():
                    ticket.future.set_result(Decoded(ids=(), finish_reason="cancelled"))
        return joiners

    def _prefill(self, joiners: list[Row]) -> None:
        prompts = [row.ticket.request.prompt for row in joiners]
        widths = [len(prompt) for prompt in prompts]
        width = max(widths)
        # Right padding: no later position is ever looked at by an earlier one, so the causal mask alone is enough.
        tokens = torch.tensor([[*p, *[p[-1]] * (width - len(p))] for p in prompts], device=self.model.device)
        logits = self._forward(tokens, [0] * len(joiners), last=[w - 1 for w in widths])
        for row, prompt in zip(joiners, prompts, strict=True):
            row.length = len(prompt)
            if not row.ticket.request.sampling.greedy:
                row.generator = row_generator(row.ticket.request.sampling.seed, prompt, logits.device)
        self._accept(joiners, logits)
        self._rows = self._rows + joiners

    def _step(self, rows: list[Row]) -> None:
        tokens = torch.tensor([[row.token] for row in rows], device=self.model.device)
        logits = self._forward(tokens, [row.length for row in rows], last=[0] * len(rows))
        for row in rows:
            row.length += 1
        self._accept(rows, logits)

    def _accept(self, rows: Sequence[Row], logits: Float[Tensor, "rows vocab"]) -> None:
        best = logits.argmax(dim=-1).tolist()
        for i, row in enumerate(rows):
            if row.generator is None:
                row.accept(best[i])
            else:
                row.accept(draw(logits[i], row.ticket.request.sampling, row.generator))

    def _forward(self, tokens: Tensor, starts: list[int], last: list[int]) -> Float[Tensor, "rows vocab"]:
        """One pass over rows that start at the given lengths; logits at one position of each."""
        joining = starts[0] == 0
        window = Window(first=len(self._rows) if joining else 0, starts=tuple(starts), width=tokens.shape[1])
        positions = window.positions(tokens.device)
        self._cache.aim(window, positions)
        rows = torch.arange(len(starts), device=tokens.device)
        self._wanted = (rows, torch.tensor(last, device=tokens.device))
        try:
            output = self.model(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=None if window.even else self._mask(window, positions),
                past_key_values=self._cache,
                use_cache=True,
            )
        except BaseException:
            self._cache.undo()
            raise
        finally:
            self._wanted = None
        self.forward_passes += 1
        logits: Tensor = output.logits
        return logits[0]

    def _mask(self, window: Window, positions: Tensor) -> Any:
        """Attention masks for rows of different lengths, in the form the model's layers take them."""
        kinds = self._layer_types or {"sliding_attention" if self._sliding else "full_attention"}
        masks = {}
        for kind in kinds:
            mask = window.mask(positions, self._sliding if kind == "sliding_attention" else None)
            if self._eager:
                mask = torch.zeros(mask.shape, dtype=self.model.dtype, device=mask.device).masked_fill(
                    ~mask, torch.finfo(self.model.dtype).min
                )
            masks[kind] = mask
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _select(self, _head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Before the output layer: keep only the hidden states whose logits somebody wants."""
        if self._wanted is None:
            return None
        rows, columns = self._wanted
        hidden = args[0]
        return (hidden.transpose(0, 1) if hidden.shape[1] == 1 else hidden[rows, columns][None], *args[1:])

    def _leave(self) -> None:
        """Rows that are done or cancelled hand over their result and leave the batch."""
        staying = []
        for row in self._rows:
            if row.finish is None and row.ticket.cancelled:
                row.finish = "cancelled"
            if row.finish is None:
                staying.append(row)
            elif not row.ticket.future.done():
                row.ticket.future.set_result(Decoded(ids=tuple(row.out), finish_reason=row.finish))
        if len(staying) < len(self._rows):
            self._retain(staying)

    def _retain(self, staying: list[Row]) -> None:
        slots = {id(row): slot for slot, row in enumerate(self._rows)}
        kept = [slots[id(row)] for row in staying]
        order = self._cache.keep(kept, [row.length for row in staying])
        self._rows = [self._rows[slot] for slot in order]

    def _fail(self, tickets: Sequence[Ticket], error: Exception) -> None:
        for ticket in tickets:
            if not ticket.future.done():
                ticket.future.set_exception(error)


def _no_memory() -> OutOfMemoryError:
    return OutOfMemoryError("not enough memory for the correction; lower max_rows or the answer's length")


def _reach(request: Request) -> int:
    return len(request.prompt) + request.max_new_tokens
