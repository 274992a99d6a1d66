"""Passes: what the step loop has the model do. A prefill reads the rows that join, with their answers as drafts; a step
takes all rows on, by one token and those of their drafts that the model would have written too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from operator import sub
from time import perf_counter

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aligner.correct.drafting import NO_DRAFT, Draft, Drafter, Phrases
from aligner.correct.forward import Forward
from aligner.correct.gate import ALWAYS
from aligner.correct.pace import Pace
from aligner.correct.reading import common
from aligner.correct.sampling import draw, row_generator
from aligner.correct.slots import Slots
from aligner.correct.ticket import Row

_SOON = 64  # tokens drafted at first, at most, where a prompt was read ahead: somebody waits for the first one
_SHARED = 32  # tokens that prompts have in common, at least, for them to be shared


class Passes:
    """Prefills and steps over the rows of a step loop.

    Args:
        forward, slots: the loop's.
        phrases: of earlier corrections, to draft from.
        share: read once what prompts have in common.
    """

    def __init__(self, forward: Forward, slots: Slots, *, phrases: Phrases, share: bool) -> None:
        self.phrases, self.pace = phrases, Pace()
        self.shared_tokens = 0
        self._forward, self._slots, self._sharing = forward, slots, share

    def prefill(self, joiners: list[Row]) -> None:
        """Read the prompts of rows that join, with their answers as drafts; new rows take slots behind all others."""
        began = perf_counter()
        if not joiners[0].ahead:
            joiners = sorted(joiners, key=lambda row: row.ticket.request.prompt)  # those that share lie side by side
        prompts = [row.ticket.request.prompt for row in joiners]
        rows = len(joiners) + len(self._slots.rows)
        for row in joiners:
            if row.ticket.request.answer:
                row.drafter = Drafter(row.ticket.request.answer, row.ticket.request.prompt, self.phrases)
                row.log_probs.clear()  # of a pass that failed
                most = min(row.draftable, len(row.ticket.request.answer))
                # A gate decides before anything is shown, and one that wants the whole score reads it at once.
                gate = row.ticket.request.gate if row.undecided else None
                whole = gate is not None and (gate.whole or row.ticket.on_token is not None)
                if row.ahead and not whole:
                    most = min(most, _SOON)
                row.rates = self.pace.rates()
                row.draft = row.rates.best(row.drafter.drafts(most if whole else self.pace.first(most, rows)))
        shared = 0
        if joiners[0].ahead:  # what was read ahead stands in its own slot already
            for row, prompt in zip(joiners, prompts, strict=True):
                row.length = min(row.length, len(prompt) - 1)  # a pass that failed may have left it at the end
        else:
            reads = [len(prompt) + len(row.draft.tokens) for row, prompt in zip(joiners, prompts, strict=True)]
            lengths, shared = self._share(prompts, reads) if self._sharing else ([0] * len(joiners), 0)
            for row, length in zip(joiners, lengths, strict=True):
                row.length = length
        starts = [row.length for row in joiners]
        read = [(*prompt[row.length :], *row.draft.tokens) for row, prompt in zip(joiners, prompts, strict=True)]
        tokens = self._padded(read)
        wanted = [(len(row.ticket.request.prompt) - row.length - 1, len(row.draft.tokens) + 1) for row in joiners]
        logits = self._forward(tokens, starts, wanted, self._slots.slot(joiners[0]))
        for row, prompt in zip(joiners, prompts, strict=True):
            row.length = len(prompt)
            if not row.ticket.request.sampling.greedy:
                row.generator = row_generator(row.ticket.request.sampling.seed, prompt, logits.device)
        self._decide(joiners, logits)
        self._accept(joiners, logits)
        self.pace.took(tokens.numel() + shared, perf_counter() - began)
        if not joiners[0].ahead:
            self._slots.rows.extend(joiners)

    def step(self, rows: list[Row], *, draft: bool = True) -> None:
        """Take all rows on by a token or more; without drafts by one."""
        began = perf_counter()
        for row in rows:
            row.draft = NO_DRAFT  # a pass that failed may have left one
        if draft:
            self._draft(rows)
        read = [(row.token, *row.draft.tokens) for row in rows]
        tokens = self._padded(read)
        logits = self._forward(tokens, [row.length for row in rows], [(0, len(ids)) for ids in read],
                               len(self._slots.open))  # fmt: skip
        for row in rows:
            row.length += 1
        self._decide(rows, logits)
        self._accept(rows, logits)
        self.pace.took(tokens.numel(), perf_counter() - began)

    def _draft(self, rows: list[Row]) -> None:
        """Give every row its draft for a step."""
        for row in rows:
            if row.held is not None:  # only its gate needs the rest of the answer
                row.draft = Draft(row.ticket.request.answer[len(row.log_probs) : -1], "answer")
            elif row.drafter is not None and row.rates is not None:
                row.draft = row.rates.best(row.drafter.drafts(row.draftable))
        # A short row's padding must not reach where no row may write.
        room = max(row.ticket.request.reach for row in rows) - max(row.length for row in rows) - 1
        if self._forward.context is not None:
            room = min(room, self._forward.context - max(row.length for row in rows) - 1)
        chances = [row.rates.each(row.draft.source) if row.rates is not None else 0.0 for row in rows]
        width = max(0, min(room, self.pace.width([row.draft for row in rows], chances)))
        for row in rows:
            row.draft = Draft(row.draft.tokens[:width], row.draft.source)

    def _padded(self, read: Sequence[Sequence[int]]) -> Int[Tensor, "rows width"]:
        # On the right: no later position is ever looked at by an earlier one, so the causal mask alone is enough.
        width = max(map(len, read))
        return torch.tensor(
            [[*ids, *[ids[-1]] * (width - len(ids))] for ids in read], device=self._forward.model.device
        )

    def _share(self, prompts: Sequence[tuple[int, ...]], reads: Sequence[int]) -> tuple[list[int], int]:
        """Put what joining prompts begin with into their slots, read once or not at all; returns how much of each that
        is, and how many tokens were read for it.

        Any two prompts have their instruction in common; many answers to one question, and many corrections of one
        answer, have more. `prompts` are sorted; `reads` are the tokens of each with its draft.
        """
        first, count = len(self._slots), len(prompts)
        shared, read = self._share_all(prompts)
        # Where a run of prompts has more in common than `fixed` tokens, read once for all of them.
        runs = [run for run in _runs(prompts, shared) if (run[1] - 1) * (len(run[2]) - shared) > self.pace.fixed]
        lengths = [shared] * count
        for place, size, alike in runs:
            lengths[place : place + size] = [len(alike)] * size
        width = max(map(sub, reads, lengths))
        saved = count * (max(reads) - shared - width)
        # All rows are read as wide as the widest: one that has nothing in common makes the others' runs worthless.
        if saved <= sum(len(alike) - shared + self.pace.fixed for _, _, alike in runs):
            return [shared] * count, read
        for place, size, alike in runs:
            more, slot = len(alike) - shared, first + place
            self._forward(self._padded([alike[shared:]]), [shared], [(more - 1, 1)], slot)
            self._forward.share(slot, slot, size, len(alike))
            self.shared_tokens += more * (size - 1)
            read += more
        # Padding must not reach where no row may write.
        return [min(length, max(reads) - width) for length in lengths], read

    def _share_all(self, prompts: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        """The same for what all of them begin with, which may be in the cache already."""
        first, count = len(self._slots), len(prompts)
        alike = prompts[0][: min(common(prompts[0], prompts[-1]), min(map(len, prompts)) - 1)]
        # In the order of the slots: open rows hold what was read, which may differ from what is wanted by now.
        held = [reading.read for reading in self._slots.open]
        held += [row.ticket.request.prompt[: row.length] for row in self._slots.rows]
        known = [common(ids, alike) for ids in held]
        source = max(range(first), key=known.__getitem__, default=first)
        length = known[source] if known else 0
        if (count - 1) * len(alike) - self.pace.fixed > count * length:  # a pass of its own pays
            source, length = first, len(alike)
        if length < _SHARED:
            return 0, 0
        if source == first:
            self._forward(self._padded([alike]), [0], [(length - 1, 1)], first)
        self._forward.share(source, first, count, length)
        self.shared_tokens += length * (count - (source == first))
        return length, length if source == first else 0

    def _decide(self, rows: Sequence[Row], logits: Float[Tensor, "wanted vocab"]) -> None:
        """Tell gates how likely the drafted ids of answers are; rows whose answers pass end there.

        An undecided row has written what its answer begins with, so that its draft is what comes next there.
        """
        place = 0
        found: list[tuple[Row, int]] = []
        log_probs: list[Float[Tensor, " ids"]] = []
        for row in rows:
            known = len(row.draft.tokens) + 1  # places whose next token is known
            if row.undecided:
                read = len(row.log_probs)
                ids = torch.tensor(row.ticket.request.answer[read : read + known], device=logits.device)
                # Row by row: in fp32, a large vocabulary for all rows at once would be the batch's largest tensor.
                scores = logits[place : place + len(ids)].float().log_softmax(dim=-1)
                log_probs.append(scores.gather(1, ids[:, None])[:, 0])
                found.append((row, len(ids)))
            place += known
        if not found:
            return
        values = iter(torch.cat(log_probs).tolist())
        for row, count in found:
            request = row.ticket.request
            row.log_probs += islice(values, count)
            if request.gate is not None:
                row.decision = request.gate.decide(row.log_probs, len(request.answer), len(request.prompt))
            if row.passed:
                row.finish = "stop"
                # Where everything passes, it says nothing of what the model would have written.
                if row.held is None and request.gate != ALWAYS:
                    self._seen(row, len(row.draft.tokens))

    def _accept(self, rows: Sequence[Row], logits: Float[Tensor, "wanted vocab"]) -> None:
        """Take what the model writes, as far as it writes what was drafted, and one token more.

        A draft is one sequence and no distribution: to draw from the model's own and go on while what is drawn is
        what was drafted is the exact rule of speculative sampling (Leviathan et al. 2023), and draws what plain
        sampling would.
        """
        best = logits.argmax(dim=-1).tolist()
        place = 0
        for row in rows:
            request = row.ticket.request
            if row.finish is None and row.held is not None:
                self._release(row)
            elif row.finish is None:
                right = 0
                for offset, drafted in enumerate((*row.draft.tokens, None)):
                    at = place + offset
                    token = best[at] if row.generator is None else draw(logits[at], request.sampling, row.generator)
                    if row.undecided and token != request.answer[len(row.out)]:
                        row.held = token
                        break
                    row.accept(token)
                    if row.finish is not None or token != drafted:
                        right += token == drafted
                        break
                    right += 1
                self._seen(row, right)
                row.length += min(right, len(row.draft.tokens))
                if row.held is not None:
                    self._release(row)
            place += 1 + len(row.draft.tokens)
            row.draft = NO_DRAFT

    def _seen(self, row: Row, right: int) -> None:
        """Count how far a row's draft was right."""
        if row.draft.tokens and row.rates is not None:
            row.rates.seen(row.draft.source, len(row.draft.tokens), right)
            if row.draft.source == "first":
                self.pace.read(len(row.draft.tokens), right)
                row.following = right == len(row.draft.tokens) < len(row.ticket.request.answer)
                if not row.following:
                    self.pace.ended(right == len(row.draft.tokens))

    def _release(self, row: Row) -> None:
        """A row that left its answer goes on once the answer does not pass; before that, the answer is read on."""
        request = row.ticket.request
        if row.undecided:
            row.length = len(request.prompt) + len(row.log_probs) - 1
            row.token = request.answer[len(row.log_probs) - 1]
        elif row.held is not None:
            row.length = len(request.prompt) + len(row.out)
            token, row.held = row.held, None
            row.accept(token)


def _runs(prompts: Sequence[tuple[int, ...]], shared: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(place of the first, how many, what they begin with) of the runs of sorted prompts that have clearly more in
    common than all of them have. The last id of a prompt is always read, for its logits."""
    start = 0
    for place in range(1, len(prompts) + 1):
        if place < len(prompts) and common(prompts[start], prompts[place]) >= shared + _SHARED:
            continue
        if place - start > 1:
            run = prompts[start:place]
            yield start, len(run), run[0][: min(common(run[0], run[-1]), min(map(len, run)) - 1)]
        start = place
