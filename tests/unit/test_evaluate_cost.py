"""Cost: sums of tokens and seconds, and what is not known."""

from __future__ import annotations

from aligner.evaluate.cost import Cost, cost_rows
from aligner.evaluate.store import Store
from tests.evaluation import suite_of


def test_sums_and_means() -> None:
    cost = Cost()
    cost.add_row({"prompt_tokens": 10, "completion_tokens": 4})
    cost.add_row({"prompt_tokens": 20, "completion_tokens": 5, "error": "failed, and cost all the same"})
    cost.add_row({"prompt_tokens": 0, "completion_tokens": 0, "copied": True})
    cost.add_row({"prompt_tokens": None, "completion_tokens": None})
    cost.add_row({"answer": "of an older run"})
    cost.add_work({"answers": 2, "seconds": 1.5})
    cost.add_work({"answers": 1, "seconds": 0.75})
    assert cost.values() == {
        "answers": 4, "copied": 1, "counted": 2, "prompt_tokens": 30, "completion_tokens": 9, "seconds": 2.25,
        "prompt_tokens_each": 15.0, "completion_tokens_each": 4.5, "seconds_each": 0.75,
    }  # fmt: skip


def test_what_is_not_known_is_none_and_not_0() -> None:
    cost = Cost()
    cost.add_row({"prompt_tokens": None, "completion_tokens": None})
    values = cost.values()
    assert values["answers"] == 1
    assert [values[k] for k in values if k.endswith(("tokens", "_each", "seconds"))] == [None] * 6


def test_rows_by_corrector_and_upstream(tmp_path) -> None:
    suite = suite_of(tmp_path / "t.jsonl", 2)
    answers = {name: Store(tmp_path / f"{name}.jsonl", suite) for name in ("a", "b")}
    corrections = {("c", name): Store(tmp_path / "c" / f"{name}.jsonl", suite) for name in answers}
    for i, store in enumerate([*answers.values(), *corrections.values()]):
        store.write(0, {"prompt_tokens": 10**i, "completion_tokens": i})
        store.write(1, {"prompt_tokens": 10**i, "completion_tokens": i})
    work = [{"corrector": "c", "upstream": "b", "answers": 2, "seconds": 3.0},
            {"corrector": None, "upstream": "a", "answers": 2, "seconds": 1.0}]  # fmt: skip
    rows = cost_rows(answers, corrections, ["c"], work)
    assert [(r["corrector"], r["upstream"], r["prompt_tokens"], r["seconds"]) for r in rows] == [
        (None, "a", 2, 1.0), (None, "b", 20, None), (None, "all", 22, 1.0),
        ("c", "a", 200, None), ("c", "b", 2000, 3.0), ("c", "all", 2200, 3.0),
    ]  # fmt: skip
