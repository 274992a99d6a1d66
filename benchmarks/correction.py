"""Corrections by verified drafts beside transformers' generate(), plain and with prompt lookup.

    python benchmarks/correction.py [--only replay|pocket|shared] [--aligner DIR] [--device D] [--dtype T] [--quick]
    python benchmarks/correction.py --random tiny|0.5b [--device D] [--dtype T] [--quick]       [--json OUT.json]

Replay: corrections of the published 2B corrector (ALIGNER_REAL_DATA; left out where it is absent), teacher-forced:
tokens per forward pass, by how much of the correction stands in the answer. It needs no model.

Pocket: a corrector of the pocket suite (trained first where the cache has none; S with --quick, else M) on answers
without a fault, with one, with two or three, and on a mix of 50, 30 and 20 %; one at a time, and the mix in batches.
The same checkpoint, the same prompts. Tokens are compared: in float32 a row may differ only where the two likeliest
tokens lie within 1e-5, and such rows are counted; in half precision all rows that differ are counted.

Shared: one question, 32 answers, with and without reading once what their prompts have in common.

Random: in place of these, a model of Qwen2's shape with random weights, made to write a walk that is known (`walks`);
its answers are the walk with 0, 5 and 20 % of the tokens edited, one by one and at random places, which no text is as
hard as. No token stands twice in a walk, so that nothing but the answer helps a draft.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, get_args

import torch
from common import generate, interleaved, place, row, step_loop, ties, write
from walks import RandomSize, Walk

from aligner import Aligner, edits
from aligner.correct.decoding import StepLoop
from aligner.correct.drafting import Drafter, Phrases
from aligner.correct.pace import Pace
from aligner.correct.ticket import Request
from aligner.generate.hf import Dtype, default_device
from aligner.pocket.faults import FAULTS, Faults, faultless, text_of
from aligner.pocket.oracle import oracle
from aligner.pocket.tasks import TASKS, Question
from aligner.recipes.lanes import run_jobs
from aligner.recipes.suite_models import Models, Size
from aligner.triplets import read_triplets
from aligner.types import as_chat

REAL = Path(os.environ.get("ALIGNER_REAL_DATA", Path(__file__).resolve().parents[1] / "../shared/data"))
MIX = {"faultless": 5, "one fault": 3, "more faults": 2}
LOOKUP = (10, 32)
EDITED = (0.0, 0.05, 0.2)


def corrector_place(quick: bool) -> Path:
    """A corrector of the pocket suite, S where it must be quick, else M; trained where the cache has none."""
    size: Size = "S" if quick else "M"
    models = Models(quick=quick)
    models.suite()
    models.base(size)
    found = models.corrector(size)
    if models.jobs:
        run_jobs(models.jobs, 1, lambda text: print(text, file=sys.stderr))
    return found


def answers(faults: int, count: int, seed: int) -> list[tuple[str, str]]:
    """Questions and answers with so many faults; 2 stands for two or three."""
    tasks = oracle().tasks
    random, injected = Random(f"{faults}:{seed}"), Faults(tasks.language)
    found: list[tuple[str, str]] = []
    while len(found) < count:
        question: Question = tasks.draw(random.choice([t for t in TASKS if t != "sums"]), random, "phrasing")
        answer = faultless(question, tasks.language, random)
        for _ in range(faults if faults < 2 else random.choice((2, 3))):
            answer = injected.inject(random.choice(FAULTS), question, answer, random) or answer
        found.append((question.text, text_of(answer)))
    return found


def requests(aligner: Aligner, pairs: Sequence[tuple[str, str]]) -> list[Request]:
    form, codec = aligner.card.prompt, aligner.codec
    made = []
    for question, answer in pairs:
        prompt = form.encode(codec, as_chat(question), answer, max_tokens=aligner.context - 1)
        copy = form.encode_correction(codec, answer)
        room = min(aligner.context - len(prompt.ids), 2 * len(copy) + 64)
        made.append(Request(prompt=prompt.ids, max_new_tokens=room, stop_ids=form.stop_ids(codec), answer=copy))
    return made


def ours(loop: StepLoop, batch: int, rows: Sequence[Request]) -> list[list[int]]:
    loop.forget()  # what the last repeat wrote are these very corrections
    return step_loop(loop, batch, rows)


def compared(model: Any, rows: Sequence[Request], mine: list[list[int]], theirs: list[list[int]]) -> dict[str, Any]:
    """What a row says of the tokens, and of the place where they were written."""
    tied = ties(model, rows, mine, theirs)
    return {"tied_rows": tied, "differing_share": tied / len(rows), "answers": len(rows), **place(model)}


def mixed(aligner: Aligner, count: int, seed: int) -> list[Request]:
    made = [r for i, share in enumerate(MIX.values()) for r in requests(aligner, answers(i, count * share // 10, seed))]
    Random(seed).shuffle(made)
    return made


def pocket(aligner: Aligner, quick: bool) -> list[dict[str, Any]]:
    count, repeats = (20, 3) if quick else (60, 5)
    buckets = {name: requests(aligner, answers(i, count, 0)) for i, name in enumerate(MIX)}
    rows = []
    for name, made in {**buckets, "mix": mixed(aligner, count, 1)}.items():
        peers = {"generate": partial(generate, aligner.model, 1, made)}
        peers |= {f"prompt lookup {n}": partial(generate, aligner.model, 1, made, prompt_lookup_num_tokens=n)
                  for n in LOOKUP}  # fmt: skip
        mine = partial(ours, aligner._loop, 1, made)
        plain = generate(aligner.model, 1, made)
        extra = {**compared(aligner.model, made, mine(), plain),
                 "copies": sum(tuple(ids) == r.answer[:-1] for ids, r in zip(plain, made, strict=True))}  # fmt: skip
        times = interleaved({"ours": mine, **peers}, repeats)
        rows += [row(f"pocket, {name}", peer, "wall time", "s", times["ours"], times[peer], **extra) for peer in peers]
    batched = mixed(aligner, 40 if quick else 100, 2)
    for batch in (8, 32):
        mine, plain = partial(ours, aligner._loop, batch, batched), partial(generate, aligner.model, batch, batched)
        extra = compared(aligner.model, batched, mine(), plain())
        times = interleaved({"ours": mine, "generate": plain}, repeats)
        rows.append(row(f"pocket, mix, batch {batch}", "generate", "wall time", "s", times["ours"], times["generate"],
                        **extra))  # fmt: skip
    return rows


def shared(aligner: Aligner, quick: bool) -> list[dict[str, Any]]:
    """32 answers to one question, with and without reading once what their prompts have in common."""
    [(question, _)] = answers(0, 1, 2)
    # A conversation before it, as long questions are.
    talk = " ".join(q for q, _ in answers(0, 6, 3))
    pairs = [(f"{talk} {question}", answer) for _, answer in answers(1, 32, 2)]
    made = requests(aligner, pairs)
    tokens = sum(len(request.prompt) for request in made)
    with StepLoop(aligner.model) as together, StepLoop(aligner.model, share=False) as apart:
        written = [ours(loop, 32, made) for loop in (together, apart)]
        saved = together.shared_tokens
        same = compared(aligner.model, made, *written)
        peers = {"ours": partial(ours, together, 32, made), "apart": partial(ours, apart, 32, made)}
        times = interleaved(peers, 3 if quick else 5)
    extra = {**same, "prompt_tokens": tokens, "tokens_saved": saved}
    return [row("pocket, one question, 32 answers", "no sharing", "wall time", "s", times["ours"], times["apart"],
                **extra)]  # fmt: skip


def replay(quick: bool) -> list[dict[str, Any]]:
    """Tokens per forward pass on corrections that are known, ours and prompt lookup's."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

    source = REAL / "triplets" / "aligner2b.jsonl.xz"
    models = REAL / "models"
    if not source.is_file():
        print(f"no real corrections at {source}; replay left out", file=sys.stderr)
        return []
    bpe = ByteLevelBPETokenizer(str(models / "gpt2_vocab.json"), str(models / "gpt2_merges.txt"))
    bands = {"0 to .6": (0, 0.6), ".6 to .8": (0.6, 0.8), ".8 to .95": (0.8, 0.95), ".95 to 1": (0.95, 1.01)}
    passes: dict[str, list[tuple[int, ...]]] = {name: [] for name in bands}
    # Passes are counted, not seconds, so the pace is told that all of them cost the same; and once more with its own
    # first guess, by which a pass costs as much before its first token as 64 tokens cost.
    flat = Pace()
    for tokens in (1, 50, 100):
        flat.took(tokens, 1.0)
    assert math.isinf(flat.fixed)
    drafting = [(Phrases(), flat), (Phrases(), Pace())]
    for triplet in islice(read_triplets(source), 150 if quick else None):
        share = edits.copied_share(triplet.answer, triplet.correction)
        prompt = tuple(bpe.encode(f"{triplet.question_key}\n{triplet.answer}\n").ids)
        end = bpe.get_vocab_size()
        answer = (*bpe.encode(triplet.answer).ids, end)
        target = (*bpe.encode(triplet.correction).ids, end)
        found = [len(target), *(drafted_passes(prompt, answer, target, *how) for how in drafting)]
        for length in LOOKUP:
            lookup = PromptLookupCandidateGenerator(
                eos_token_id=torch.tensor([end]), num_output_tokens=length, max_matching_ngram_size=2,
                max_length=len(prompt) + len(target) + length,
            )  # fmt: skip
            found.append(lookup_passes(lookup, prompt, target))
        passes[next(name for name, (low, high) in bands.items() if low <= share < high)].append(tuple(found))
    passes["pooled, .6 and above"] = [counts for name in list(bands)[1:] for counts in passes[name]]
    rows = []
    for name, counts in passes.items():
        if not counts:
            continue
        tokens, *ours, ten, thirty_two = (sum(column) for column in zip(*counts, strict=True))
        theirs = (ten, thirty_two)
        best = min(theirs)
        for mine, how in zip(ours, ("", " (a pass costs 64 tokens)"), strict=True):
            rows.append({"name": f"replay, copied {name}{how}", "peer": f"prompt lookup {LOOKUP[theirs.index(best)]}",
                         "metric": "tokens per forward", "unit": "tokens", "ours": tokens / mine,
                         "theirs": tokens / best, "ratio": best / mine, "rows": len(counts)})  # fmt: skip
    return rows


def drafted_passes(
    prompt: tuple[int, ...], answer: tuple[int, ...], target: tuple[int, ...], phrases: Phrases, pace: Pace
) -> int:
    """Forward passes that the step loop would take to write `target`, alone in its batch."""
    drafter, rates = Drafter(answer, prompt, phrases), pace.rates()
    written = count = 0
    while written < len(target):
        most = len(target) - written - 1
        draft = rates.best(drafter.drafts(most if count else pace.first(min(most, len(answer)), 1)))
        width = pace.width([draft], [rates.each(draft.source)]) if count else len(draft.tokens)
        right = 0
        while right < width and draft.tokens[right] == target[written + right]:
            right += 1
        if width:
            rates.seen(draft.source, width, right)
            if draft.source == "first":
                pace.read(width, right)
        for token in target[written : written + right + 1]:
            drafter.push(token)
        written += right + 1
        count += 1
    drafter.finish()
    pace.left(rates)
    pace.ended(target == answer)
    return count


def lookup_passes(lookup: Any, prompt: tuple[int, ...], target: tuple[int, ...]) -> int:
    """Forward passes with transformers' prompt lookup."""
    whole = torch.tensor([[*prompt, *target]])
    written = count = 0
    while written < len(target):
        known = len(prompt) + written
        candidates, _ = lookup.get_candidates(whole[:, :known])
        drafted = candidates[0, known:].tolist()
        right = 0
        while right < min(len(drafted), len(target) - written - 1) and drafted[right] == target[written + right]:
            right += 1
        written += right + 1
        count += 1
    return count


def random_walks(walk: Walk, quick: bool) -> list[dict[str, Any]]:
    """Wall time on a model of random weights, by how much of the answers is edited and how many rows share a batch."""
    question, length = (16, 24) if walk.size == "tiny" else (128, 128)
    counts = {1: 2, 8: 8, 32: 32} if quick else {1: 4, 8: 16, 32: 64}
    rows = []
    with StepLoop(walk.model) as loop:
        for edited in EDITED:
            for batch, count in counts.items():
                made = walk.requests(count, edited, question=question, length=length, seed=batch)
                written = [walk.written(request) for request in made]
                peers = {"generate": partial(generate, walk.model, batch, made)}
                if batch == 1:
                    peers |= {f"prompt lookup {n}": partial(generate, walk.model, 1, made, prompt_lookup_num_tokens=n)
                              for n in LOOKUP}  # fmt: skip
                decoders = {"ours": partial(ours, loop, batch, made), **peers}
                for name, decoder in decoders.items():
                    if decoder() != written:
                        raise SystemExit(f"{name} leaves the walk at {edited:.0%} edited, batch {batch}")
                before = loop.forward_passes
                decoders["ours"]()
                extra = {"answers": count, "new_tokens": length, "edited": edited, "batch": batch,
                         "passes": loop.forward_passes - before, **place(walk.model)}  # fmt: skip
                times = interleaved(decoders, 3 if quick else 5)
                rows += [row(f"random weights, {edited:.0%} edited, batch {batch}", peer, "wall time", "s",
                             times["ours"], times[peer], **extra) for peer in peers]  # fmt: skip
    return rows


def corrector_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The parts that need a corrector, as far as they are wanted."""
    wanted = [part for name, part in (("pocket", pocket), ("shared", shared)) if options.only in (None, name)]
    if not wanted:
        return []
    checkpoint = options.aligner or corrector_place(options.quick)
    with Aligner.from_pretrained(checkpoint, device=options.device, dtype=options.dtype) as aligner:
        return [found for part in wanted for found in part(aligner, options.quick)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small corrector, fewer answers and repeats")
    parser.add_argument("--only", choices=("replay", "pocket", "shared"), help="one part; left out: all three")
    parser.add_argument("--aligner", type=Path, help="a corrector of the pocket suite; left out: from the cache")
    parser.add_argument("--random", choices=get_args(RandomSize), help="in place of these, a model of random weights")
    parser.add_argument("--device", help="cpu, cuda, …; left out: the accelerator where there is one")
    parser.add_argument("--dtype", choices=get_args(Dtype), default="auto",
                        help="arithmetic; auto: as the corrector was saved, float32 for random weights")  # fmt: skip
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.random is not None:
        dtype = torch.float32 if options.dtype == "auto" else getattr(torch, options.dtype)
        rows = random_walks(Walk(options.random, options.device or default_device(), dtype), options.quick)
    else:
        rows = replay(options.quick) if options.only in (None, "replay") else []
        rows += corrector_rows(options)
    for r in rows:
        print(f"{r['name']:<48} ours {r['ours']:8.3f}  {r['peer']:<17} {r['theirs']:8.3f} {r['unit']:<7} "
              f"ratio {r['ratio']:.2f}")  # fmt: skip
    write(rows, options.json)


if __name__ == "__main__":
    main()
