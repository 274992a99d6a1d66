"""The benchmarks that need no trained model run, and say what they are there to say."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from aligner import Sampling
from aligner.correct.ticket import Request
from tests.models import tiny_aligner, tiny_model
from tests.real import REAL_DATA, needs_real_data

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch) -> Iterator[Load]:
    """A benchmark as a module, with what it imports from beside itself; none of it stays."""
    monkeypatch.setenv("ALIGNER_REAL_DATA", str(REAL_DATA))
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "x").parent == BENCHMARKS:
            del sys.modules[name]


def rows(load: Load, monkeypatch, tmp_path: Path, *options: str) -> list[dict[str, Any]]:
    out = tmp_path / "found" / "rows.json"
    monkeypatch.setattr(sys, "argv", ["correction.py", *options, "--quick", "--json", str(out)])
    load("correction").main()
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["environment"]["torch_threads"] >= 1
    return found["rows"]


def test_a_model_of_random_weights_beside_generate(load, monkeypatch, tmp_path) -> None:
    """In half precision, in which a model's own choices would differ from batch to batch."""
    found = rows(load, monkeypatch, tmp_path, "--random", "tiny", "--device", "cpu", "--dtype", "bfloat16")
    peers = {1: ["generate", "prompt lookup 10", "prompt lookup 32"], 8: ["generate"], 32: ["generate"]}
    assert [(r["edited"], r["batch"], r["peer"]) for r in found] == [
        (edited, batch, peer) for edited in (0, 0.05, 0.2) for batch, names in peers.items() for peer in names
    ]
    for r in found:
        assert (r["device"], r["dtype"]) == ("cpu", "bfloat16")
        assert r["ours"] > 0
        assert r["ratio"] == pytest.approx(r["theirs"] / r["ours"])
    copies = [r for r in found if r["edited"] == 0 and r["batch"] == 1]
    assert all(r["passes"] < r["answers"] * r["new_tokens"] / 2 for r in copies), "copies are verified, not written"


def test_a_decoder_that_leaves_the_walk_is_told(load, monkeypatch) -> None:
    correction, walks = load("correction"), load("walks")
    walk = walks.Walk("tiny", "cpu", correction.torch.float32)
    monkeypatch.setattr(correction, "generate", lambda _model, _batch, made: [[0] * r.max_new_tokens for r in made])
    monkeypatch.setattr(correction, "LOOKUP", ())
    with pytest.raises(SystemExit, match="generate leaves the walk at 0% edited, batch 1"):
        correction.random_walks(walk, quick=True)


def test_edited_answers_differ_from_the_walk_as_told(load) -> None:
    walks = load("walks")
    walk = walks.Walk("tiny", "cpu", load("correction").torch.float32)
    assert sorted(walk.from_token(7, 512)) == list(range(512)), "one cycle through the whole vocabulary"
    for share in (0.0, 0.05, 0.2):
        for request in walk.requests(5, share, question=10, length=200, seed=0):
            target = walk.written(request)
            left = sum(token in set(request.answer) for token in target) / 200
            assert left >= 1 - share
            assert (tuple(target) == request.answer) == (share == 0)


@needs_real_data
def test_the_replay_of_real_corrections(load, monkeypatch, tmp_path) -> None:
    found = {r["name"]: r for r in rows(load, monkeypatch, tmp_path, "--only", "replay")}
    pooled = found["replay, copied pooled, .6 and above"]
    assert pooled["rows"] > 20
    assert pooled["ours"] > 1.2 * pooled["theirs"] > 1.2


@pytest.mark.parametrize(
    ("among", "most", "passing"),
    [
        ([True] * 5, 0, []),
        ([True] * 5, 2, [5.0, 4.0]),
        ([True, False, True, False, True], 1, [5.0, 4.0]),
        ([False] * 5, 0, [1.0, 2.0, 3.0, 4.0, 5.0]),
        ([True] * 5, 5, [1.0, 2.0, 3.0, 4.0, 5.0]),
    ],
)
def test_the_gates_threshold_at_a_share(load, among: list[bool], most: int, passing: list[float]) -> None:
    """With rows too few for the share, too: then all may pass, but for those that were never scored."""
    scores = [5.0, 2.0, 3.0, 4.0, 1.0]
    threshold = load("gate").lowest_threshold([*scores, -math.inf], [*among, True], most)
    assert math.isfinite(threshold)
    assert sorted(s for s in scores if s > threshold) == sorted(passing)


def test_the_peer_writes_without_what_a_checkpoint_sets(load) -> None:
    """The step loop knows no penalties, and the two are to write the same tokens."""
    common, model = load("common"), tiny_model("llama", 160)
    asked = [Request(prompt=(20 + i, 21, 22), max_new_tokens=20, stop_ids=frozenset()) for i in range(3)]
    plain = common.generate(model, 3, asked)
    model.generation_config.update(repetition_penalty=5.0, no_repeat_ngram_size=2, suppress_tokens=[plain[0][0]])
    assert common.generate(model, 3, asked) == plain
    assert common.generate(model, 3, asked, suppress_tokens=[plain[0][0]]) != plain


def test_the_gates_repeats_do_not_know_their_own_corrections(load, monkeypatch) -> None:
    gate = load("gate")
    with tiny_aligner(sampling=Sampling(max_new_tokens=12)) as aligner:
        forgotten = []
        monkeypatch.setattr(aligner._loop, "forget", lambda: forgotten.append(1))
        item = gate.Item(question=SimpleNamespace(text="How?"), answer="So.", faulty=False)
        for i, work in enumerate((gate.correct, gate.one_by_one, gate.correct), 1):
            assert len(work(aligner, [item])) == 1
            assert len(forgotten) == i
