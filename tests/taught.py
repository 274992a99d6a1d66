"""A corrector that was taught a few triplets in process, its gate calibrated by hand: a second, and no download."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from aligner import Aligner, Triplet
from aligner.correct.card import AlignerCard
from aligner.correct.gate import GateCalibration
from aligner.prompts import PromptFormat
from tests.models import byte_bpe_tokenizer, tiny_model

MARKUP = '<img src=x onerror="document.title=1"><script>document.title=2</script> is old.'
WRONG = Triplet(question="Where is it?", answer="It is in the fox.", correction="It is in the dog.")
FINE = Triplet(question="Who is quick?", answer="The fox is quick.", correction="The fox is quick.")
MARKED = Triplet(question="Show it.", answer=MARKUP, correction=MARKUP.replace("old", "new"))


@cache
def _taught(triplets: tuple[Triplet, ...]) -> Aligner:
    tokenizer = byte_bpe_tokenizer()
    form = PromptFormat.preset("chat", tokenizer, instruction="", request="")
    # A copy of FINE is all but certain (about -0.1 nats), one of WRONG is not.
    gate = GateCalibration(thresholds={"balanced": -3.0}, passed={"balanced": 0.9}, needed=99, faultless=9)
    aligner = Aligner(tiny_model("llama", tokenizer), tokenizer, AlignerCard(prompt=form, gate=gate))
    rows = []
    for triplet in triplets:
        prompt = form.encode(aligner.codec, triplet.chat, triplet.answer, max_tokens=400).ids
        rows.append(([*prompt], form.encode_correction(aligner.codec, triplet.correction)))
    model = aligner.model.train()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(400):
        losses = []
        for prompt, correction in rows:
            ids = torch.tensor([[*prompt, *correction]])
            labels = torch.tensor([[*[-100] * len(prompt), *correction]])
            losses.append(model(ids, labels=labels).loss)
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
        if max(float(loss.detach()) for loss in losses) < 0.004:
            break
    model.eval()
    return aligner


def taught_aligner(triplets: Sequence[Triplet] = (WRONG, FINE, MARKED)) -> Aligner:
    """Knows these triplets by heart; shared by all who ask for the same ones, so nobody closes it."""
    return _taught(tuple(triplets))
