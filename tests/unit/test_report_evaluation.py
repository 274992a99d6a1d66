"""The page of an evaluation: run directories built by hand, rendered, and the page read back."""

from __future__ import annotations

import json
import re
import struct
import tracemalloc
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aligner.config import Config
from aligner.errors import DataError
from aligner.report.render import render_run
from aligner.runs import RunDir
from tests.pages import Page, assert_self_contained

TASKS = {
    "empathy": ["helpful", "harmless"],
    "refusals": ["helpful", "harmless", "honest"],
    "facts": ["helpful", "honest"],
}
UPSTREAMS = [
    {"name": "api-large", "group": "API", "seen": True},
    {"name": "api-small", "group": "API", "seen": False},
    {"name": "open-base", "group": "open, unaligned", "seen": True},
    {"name": "open-chat", "group": "open, aligned", "seen": False},
]
CORRECTORS = ["S", "L"]
SPLITS = ["seen", "entity"]


class EvalLike(Config):
    note: str = "</code></pre><script>alert(1)</script>"
    sample: int = 40


def score(corrector: str, upstream: str, task: str, dimension: str, split: str = "all", **more: Any) -> dict[str, Any]:
    return {
        "corrector": corrector, "upstream": upstream, "task": task, "dimension": dimension, "split": split, "n": 40,
        "omega": 12.34, "low": 4.5, "high": 20.25, "wins": 20, "losses": 15, "ties": 5, "unscored": 0,
        "fault_rate": 0.5, "repaired": 0.75, "untouched": 0.4, "edit_ratio": 0.123, **more,
    }  # fmt: skip


def scores(upstreams: Iterable[Mapping[str, Any]] = UPSTREAMS) -> list[dict[str, Any]]:
    names = [str(u["name"]) for u in upstreams]
    rows = [
        score(c, u, t, d, split)
        for c in CORRECTORS
        for u in (*names, "all", "seen", "unseen")
        for t, dimensions in TASKS.items()
        for d in dimensions
        for split in ("all", *SPLITS)
    ]
    rows += [score(c, u, "all", d) for c in CORRECTORS for u in ("all", "seen", "unseen")
             for d in ("helpful", "harmless", "honest")]  # fmt: skip
    changes: dict[tuple[str, ...], dict[str, Any]] = {
        ("L", "api-large", "facts", "honest", "all"): {"omega": -3.21, "low": -9.0, "high": 2.5},
        ("L", "open-base", "facts", "honest", "all"): {"omega": -18.5, "low": -30.0, "high": -7.0},
        ("L", "open-chat", "refusals", "honest", "all"): {
            "omega": None, "low": None, "high": None, "unscored": 40, "repaired": None, "untouched": None,
        },
        ("L", "open-chat", "empathy", "helpful", "all"): {"unscored": 7},
        ("L", "all", "all", "helpful", "all"): {"omega": 22.25, "untouched": 0.31, "repaired": 0.88},
    }  # fmt: skip
    for row in rows:
        key = tuple(str(row[k]) for k in ("corrector", "upstream", "task", "dimension", "split"))
        row.update(changes.get(key, {}))
    return rows


def verdict(corrector: str, upstream: str, i: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"q{i}", "task": "empathy", "split": SPLITS[i % 2], "upstream": upstream, "corrector": corrector,
        "question": "How do I cheer up a friend?", "answer": f"No idea, {i}.", "correction": f"Ask them out, {i}.",
        "kept_because": None, "edit_ratio": 0.6,
        "verdicts": {"helpful": "baseline" if i % 10 == 0 else "candidate", "harmless": "tie", "honest": None},
        "faults_before": 2, "faults_after": 0,
        "scores_before": {"helpful": i % 3, "harmless": 2, "honest": None},
        "scores_after": {"helpful": i % 3 + 1, "harmless": 2 + i % 2, "honest": None}, **more,
    }  # fmt: skip


def a_result(**more: Any) -> dict[str, Any]:
    return {
        "kind": "eval",
        "correctors": ["S", {"name": "L", "aligner": "runs/large", "parameters": 7_100_000}],
        "upstreams": UPSTREAMS,
        "tasks": [
            {"name": t, "dimensions": d, "n": 40, "splits": {"seen": 20, "entity": 20}} for t, d in TASKS.items()
        ],
        "judge": {"name": "oracle", "arguments": {"strict": True}},
        "unscored": 41,
        "failed": 3,
        "failed_by_step": {"answers": 1, "corrections": 0, "verdicts": 2},
        "regressions": {"L": {"worse": 12, "n": 240, "share": 0.05}},
        "seconds": {"answers": 60, "corrections": 90, "judging": 3},
        "lineage": {"L": [{"role": "data", "name": "triplets.jsonl", "hash": "ab12" * 16}]},
        "self_judged": [],
        **more,
    }


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def a_run(
    path: Path,
    result: Mapping[str, Any] | None = None,
    table: Iterable[Mapping[str, Any]] | None = None,
    verdicts: Iterable[Mapping[str, Any]] = (),
    samples: Iterable[Mapping[str, Any]] | None = None,
    shift: Any = None,
) -> RunDir:
    made = RunDir.create(path, EvalLike())
    if table is not None:
        (path / "table.json").write_text(json.dumps(list(table)))
    files: dict[Path, list[Mapping[str, Any]]] = {}
    for row in verdicts:
        files.setdefault(path / "verdicts" / row["corrector"] / f"{row['upstream']}.jsonl", []).append(row)
    for file, rows in files.items():
        write_rows(file, rows)
    if samples is not None:
        write_rows(path / "samples.jsonl", samples)
    if shift is not None:
        (path / "shift.json").write_text(json.dumps(shift))
    if result is not None:
        (path / "result.json").write_text(json.dumps(result))
    return made


def full_run(path: Path) -> RunDir:
    verdicts = [verdict(c, str(u["name"]), i) for c in CORRECTORS for u in UPSTREAMS for i in range(40)]
    samples = [
        {**verdict("L", "api-large", 1), "gain": 1.5, "picked": "gain"},
        {**verdict("L", "api-small", 2), "gain": 3, "picked": "gain"},
        {**verdict("L", "open-base", 10, faults_before=["coldness"], faults_after=[]), "gain": -2, "picked": "loss"},
        {**verdict("S", "open-base", 20), "gain": -0.5, "picked": "loss"},
        {**verdict("S", "open-chat", 3, kept_because="cut"), "gain": 0, "picked": "random"},
    ]
    points = [[i % 5 / 2, i % 7 / 3] for i in range(200)]
    shift = {"training data": {"before": points, "after": [[x + 1, y + 0.5] for x, y in points],
                               "x": "helpful", "y": "harmless"}}  # fmt: skip
    return a_run(path, a_result(), scores(), verdicts, samples, shift)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    made = full_run(tmp_path_factory.mktemp("runs") / "full")
    render_run(made)
    return made


@pytest.fixture(scope="module")
def page(full: RunDir) -> Page:
    return Page((full.path / "report.html").read_text(encoding="utf-8"))


def rendered(made: RunDir) -> Page:
    return Page(render_run(made).read_text(encoding="utf-8"))


def grid(page: Page, caption: str, which: int = 0) -> list[list[str]]:
    """All rows of the table whose caption starts so, head and foot too, as texts of their cells."""
    tables = re.findall(r"<table.*?</table>", page.html, re.DOTALL)
    found = [Page(t) for t in tables if f"<caption>{caption}" in t]
    rows: list[list[str]] = []
    for e in found[which].elements:
        if e["tag"] == "tr":
            rows.append([])
        elif e["tag"] in ("th", "td"):
            rows[-1].append(" ".join(e["text"].split()))
    return rows


# The page


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    assert_self_contained(page)
    ids = [e["attrs"]["id"] for e in page.elements if "id" in e["attrs"]]
    assert len(ids) == len(set(ids))
    links = {e["attrs"]["href"] for e in page.all("a")}
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert {link for link in links if not link.startswith("#")} == {f"report-{task}.html" for task in TASKS}
    references = re.findall(r"url\(#([^)]+)\)|xlink:href=\"#([^\"]+)\"", page.html)
    assert {a or b for a, b in references} <= set(ids)
    assert {e["attrs"]["for"] for e in page.all("label")} <= set(ids)
    assert not re.findall(r"(?:stroke|fill): #[0-9a-f]{6}", page.html), "a color that the dark page does not know"


def test_sections_and_semantics(page: Page) -> None:
    assert [e["text"] for e in page.all("h2")] == [
        "Results", "By upstream", "By split", "Distribution shift", "Examples", "Judge and models", "Configuration",
        "Hardware and versions", "Lineage",
    ]  # fmt: skip
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(e["attrs"].get("scope") for e in page.all("th"))
    said = page.text()
    assert "Evaluation run" in said
    assert "not finished" not in said
    assert "None" not in said
    assert "<script>alert(1)</script>" in page.all("pre")[0]["text"]


def test_summary_and_what_must_not_be_overlooked(page: Page) -> None:
    said = page.text()
    assert "Answers of 4 upstreams to 3 tasks were compared with their corrections by 2 correctors." in said
    assert re.search(r"Time on [^:]+: answering 1 min 0 s, correcting 1 min 30 s and judging 3\.0 s\.", said)
    assert "L loses in 2 of 27 cells of its table (▼), in 1 of them with the whole interval below 0 (▼▼)." in said
    assert "S loses" not in said
    assert (
        "41 verdicts are unscored, those of failed answers included: counted apart, neither as ties nor as 0." in said
    )
    assert "Failed and left unscored: 3 (verdicts: 2, answers: 1)." in said
    assert "Self-judged" not in said


def test_headline(page: Page) -> None:
    head, below, small, large = grid(page, "Mean over upstreams and tasks")
    assert head == ["Corrector", "Parameters", "ω", "Repaired", "Untouched", "Made worse"]
    assert below == ["helpful", "harmless", "honest"] * 2
    usual = "+12.3[+4.5, +20.2]"
    assert small == ["S", "–", *[usual] * 3, *["75.0 %"] * 3, "40.0 %", "10.0 %"]
    assert large == [
        "L", "7.1 million", "+22.2[+4.5, +20.2]", usual, usual, "88.0 %", "75.0 %", "75.0 %", "31.0 %",
        "5.0 %12 of 240",
    ]  # fmt: skip


def test_main_table(page: Page) -> None:
    rows = grid(page, "ω in per cent, by task and dimension", 1)
    assert rows[0] == ["Upstream", "empathy", "refusals", "facts"]
    assert rows[1] == ["helpful", "harmless", "helpful", "harmless", "honest", "helpful", "honest"]
    assert [r[0] for r in rows[2:]] == [
        "API", "api-large", "api-smallnot seen in training", "open, unaligned", "open-base",
        "open, aligned", "open-chatnot seen in training",
        "All upstreams", "Seen in training", "Not seen in training",
    ]  # fmt: skip
    cells = {r[0]: r[1:] for r in rows[2:]}
    assert cells["API"] == [], "a class is one cell over all columns"
    assert cells["api-large"][-1] == "▼ −3.2[−9.0, +2.5]"
    assert cells["open-base"][-1] == "▼▼ −18.5[−30.0, −7.0]"
    assert cells["open-chatnot seen in training"][4] == "unscored40 of 40"
    assert cells["open-chatnot seen in training"][0] == "+12.3[+4.5, +20.2]7 unscored"
    assert cells["All upstreams"] == ["+12.3[+4.5, +20.2]"] * 7


def test_losses_are_marked_without_color_too(page: Page) -> None:
    marked = [e for e in page.all("td") if "loss" in e["attrs"].get("class", "").split()]
    assert len(marked) == 2
    assert all("▼" in e["text"] and "−" in e["text"] for e in marked)
    (sure,) = [e for e in marked if "sure" in e["attrs"]["class"].split()]
    assert "▼▼" in sure["text"]
    assert page.all("span", title="loss")
    assert page.all("span", title="loss, the whole interval below 0")


def test_faults_and_edits(page: Page) -> None:
    rows = {r[0]: r[1:] for r in grid(page, "Faults and edits", 1)}
    assert rows["Upstream"] == ["Answers", "Fault rate", "Repaired", "Untouched", "Edit ratio", "Made worse"]
    shares = [*["50.0 %"] * 3, *["75.0 %"] * 3]
    assert rows["api-large"] == ["120", *shares, "40.0 %", "0.12", "10.0 %"]
    shares[3] = "88.0 %"
    assert rows["All upstreams"] == ["120", *shares, "31.0 %", "0.12", "10.0 %"], "the table's own means"


def test_splits(page: Page) -> None:
    rows = grid(page, "ω in per cent by corrector and split")
    assert [r[0] for r in rows[2:]] == ["S", "seen", "entity", "L", "seen", "entity"]
    assert rows[3][1:] == ["+12.3[+4.5, +20.2]"] * 7


def test_plots_are_in_the_page_and_beside_it(full: RunDir, page: Page) -> None:
    captions = [" ".join(e["text"].split()) for e in page.all("figcaption")]
    assert len(page.all("svg", role="img")) == len(captions) == 1 + len(CORRECTORS) * len(UPSTREAMS)
    assert captions[0].startswith(
        "training data: helpful from 1.00 to 2.00 and harmless from 0.99 to 1.49, means of 200."
    )
    assert "whole numbers" not in captions[0]
    assert captions[1].startswith(
        "S on api-large: helpful from 0.97 to 1.98 and harmless from 2.00 to 2.50, means of 40."
    )
    assert "Scores are whole numbers; each point is moved at random by up to 0.22" in captions[1]
    files = sorted((full.path / "plots").iterdir())
    assert [f.name for f in files][:2] == ["shift-00-training-data.png", "shift-01-s-on-api-large.png"]
    assert len(files) == len(captions)
    for file in files:
        data = file.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert min(struct.unpack(">II", data[16:24])) > 500
        assert len(data) > 5000


def test_examples_by_gain_and_by_loss(page: Page) -> None:
    shown = [" ".join(e["text"].split()) for e in page.all("article")]
    assert [re.search(r"gain (\S+)", s)[1] for s in shown] == ["+3.00", "+1.50", "−2.00", "−0.50", "0.00"]  # type: ignore[index]
    assert "helpful: ▼ worse" in shown[2]
    assert "harmless: = tie" in shown[2]
    assert "honest: unscored" in shown[2]
    assert "helpful: ▲ better" in shown[0]
    assert "(2.00 → 3.00)" in shown[0]
    assert "faults: 2 → 0" in shown[0]
    assert "faults: coldness → none" in shown[2]
    assert "open-base, corrected by L" in shown[2]
    assert "original kept: the correction was cut off" in shown[4]
    assert "Ask them out" in {e["text"] for e in page.all("ins") if "article" in e["inside"]}


def test_the_reader_can_switch_without_a_script(page: Page) -> None:
    radios = page.all("input", type="radio", name="examples")
    assert [r["attrs"]["id"] for r in radios] == ["show-gain", "show-loss", "show-random"]
    assert ["checked" in r["attrs"] for r in radios] == [True, False, False]
    assert [" ".join(e["text"].split()) for e in page.all("label")] == [
        "Biggest gains (2)", "Biggest losses (2)", "Picked at random (1)",
    ]  # fmt: skip
    (style,) = page.all("style")
    for radio in radios:
        key = radio["attrs"]["id"].removeprefix("show-")
        assert f"#show-{key}:checked ~ .choice-{key}" in style["text"]
        assert page.all("div", **{"class": f"choice-{key}"})
    assert "@media screen {\n  .choice > div { display: none; }" in style["text"], "on paper all are shown"


def test_judge_models_and_lineage(page: Page) -> None:
    facts = " ".join(e["text"] for e in page.elements if e["tag"] in {"dt", "dd"})
    assert "name oracle" in facts
    assert "arguments.strict yes" in facts
    assert grid(page, "Correctors")[1:] == [["S", "–", "–"], ["L", "7.1 million", "runs/large"]]
    assert grid(page, "Tasks")[1] == ["empathy", "40", "helpful, harmless", "seen: 20, entity: 20"]
    assert grid(page, "What made")[1:] == [["L", "data", "triplets.jsonl", "ab12ab12ab12"]]


def test_the_same_input_gives_the_same_page(tmp_path: Path) -> None:
    first, second = full_run(tmp_path / "a" / "run"), full_run(tmp_path / "b" / "run")
    (second.path / "env.json").write_bytes((first.path / "env.json").read_bytes())
    assert render_run(first).read_bytes() == render_run(second).read_bytes()
    for file in (first.path / "plots").iterdir():
        assert file.read_bytes() == (second.path / "plots" / file.name).read_bytes()
    again = render_run(first).read_bytes()
    assert again == (second.path / "report.html").read_bytes()


# Missing, unfinished, damaged


@pytest.mark.parametrize("value", [{}, {"judge": None, "upstreams": None, "tasks": [], "lineage": [], "seconds": {}}])
def test_a_result_may_lack_anything(tmp_path: Path, value: dict[str, Any]) -> None:
    page = rendered(a_run(tmp_path / "run", {"kind": "eval", **value}))
    assert_self_contained(page)
    said = page.text()
    assert "Nothing was judged." in said
    assert "No splits were told apart." in said
    assert "No answers were scored on two dimensions before and after." in said
    assert "No examples were written." in said
    assert "The judge was not recorded." in said
    assert "No lineage was recorded." in said
    assert not (tmp_path / "run" / "plots").exists()


def test_a_null_is_a_dash_and_zero_is_zero(tmp_path: Path) -> None:
    nothing = dict.fromkeys(
        [k for k in score("", "", "", "") if k not in ("corrector", "upstream", "task", "dimension")]
    )
    rows = [
        score("C", "null", "t", "d", **nothing),
        {"corrector": "C", "upstream": "absent", "task": "t", "dimension": "d"},
        score("C", "zero", "t", "d", **{**dict.fromkeys(nothing, 0), "split": "all"}),
    ]
    page = rendered(a_run(tmp_path / "run", {"kind": "eval"}, rows))
    null, absent, zero = grid(page, "Faults and edits")[3:]
    assert null[1:] == absent[1:] == ["–"] * 6
    assert zero[1:] == ["0", "0.0 %", "0.0 %", "0.0 %", "0.00", "–"]
    assert [r[1] for r in grid(page, "ω in per cent, by task")[3:]] == ["–", "–", "0.0[0.0, 0.0]"]
    assert not [e for e in page.all("td") if "loss" in e["attrs"].get("class", "")]


def test_an_upstream_without_rows_is_a_line_of_dashes(tmp_path: Path) -> None:
    upstreams = [*UPSTREAMS, {"name": "silent", "group": "API"}]
    page = rendered(a_run(tmp_path / "run", a_result(upstreams=upstreams), scores()))
    (silent,) = [r for r in grid(page, "ω in per cent, by task") if r[0] == "silent"]
    assert silent[1:] == ["–"] * 7


def test_an_unfinished_run_says_so_and_shows_what_there_is(tmp_path: Path) -> None:
    page = rendered(a_run(tmp_path / "run", verdicts=[verdict("L", "api-large", i) for i in range(5)]))
    assert "Evaluation run" in page.text()
    assert page.all("p", **{"class": "note"})[0]["text"].startswith("This run is not finished")
    assert len(page.all("svg")) == 1
    assert "No table was written yet." in page.text()


def test_a_self_judged_omega_is_left_out_of_the_headline(tmp_path: Path) -> None:
    marked = ["L", {"corrector": "S", "dimensions": ["helpful"]}]
    page = rendered(a_run(tmp_path / "run", a_result(self_judged=marked), scores()))
    said = page.text()
    assert "Self-judged: L and corrector: S, dimensions: helpful. The judge had a part in making what it judges" in said
    small, large = grid(page, "Mean over upstreams and tasks")[2:]
    assert small[2:5] == ["+12.3[+4.5, +20.2]"] * 3
    assert large[2:] == ["self-judged"] * 8, "the same judge counts the faults"
    assert grid(page, "ω in per cent, by task and dimension", 1)[-3][1] == "+12.3[+4.5, +20.2]"


def test_self_judged_tables_are_marked(tmp_path: Path) -> None:
    page = rendered(a_run(tmp_path / "run", a_result(self_judged=["L"]), scores()))
    assert [e["text"] for e in page.all("h3") if e["attrs"].get("id", "").startswith("corrector-")] == [
        "S", "L self-judged",
    ]  # fmt: skip
    assert [r[0] for r in grid(page, "ω in per cent by corrector and split")[2:]] == [
        "S", "seen", "entity", "L self-judged", "seen", "entity",
    ]  # fmt: skip


def a_cost(corrector: str | None, **each: float | None) -> dict[str, Any]:
    return {"corrector": corrector, "upstream": "all", **each}


def test_methods_costs_and_critics(tmp_path: Path) -> None:
    def critic(corrector: str, upstream: str, accuracy: float, at_chance: bool | None) -> dict[str, Any]:
        return {"corrector": corrector, "upstream": upstream, "principle": "all", "accuracy": accuracy,
                "low": accuracy - 0.1, "high": accuracy + 0.1, "at_chance": at_chance,
                "faulty_failed": 20, "faultless_passed": 10, "unread": 0 if at_chance else 1}  # fmt: skip

    result = a_result(
        correctors=["S", {"name": "L", "method": "cai"}],
        costs=[
            a_cost(None, prompt_tokens_each=12.0, completion_tokens_each=30.5, seconds_each=0.25), a_cost("S"),
            a_cost("L", prompt_tokens_each=80.04, completion_tokens_each=9.0, seconds_each=1.5),
        ],
        critiques=[critic("L", "api-large", 0.75, False), critic("L", "open-base", 0.5, True)],
    )  # fmt: skip
    page = rendered(a_run(tmp_path / "run", result, scores()))
    head, below, nothing, small, large = grid(page, "ω in per cent, mean over upstreams and tasks, and what")
    assert head == ["Method", "ω", "Made worse", "Tokens an answer", "Seconds an answer"]
    assert below == ["helpful", "harmless", "honest", "read", "written"]
    assert nothing == ["nothing", "0.0", "0.0", "0.0", "0.0 %", "12.0", "30.5", "0.250"]
    usual = "+12.3[+4.5, +20.2]"
    assert small == ["S", usual, usual, usual, "–", "–", "–", "–"]
    assert large[1:] == ["+22.2[+4.5, +20.2]", usual, usual, "5.0 %", "80.0", "9.0", "1.500"]
    assert grid(page, "Critiques")[1:] == [
        ["L"], ["api-large", "0.75[0.65, 0.85]1 of 31 unread"], ["open-base", "0.50[0.40, 0.60]at chance"],
    ]  # fmt: skip
    blind = "The critiques by L are at chance on open-base (0.50 [0.40, 0.60]): there the comparison with L is not"
    assert f"{blind} meaningful." in page.text()
    assert grid(page, "Correctors")[1:] == [["S", "–", "–"], ["L", "–", "cai"]]
    assert "Methods and cost" in [e["text"] for e in page.all("h2")]
    assert_self_contained(page)


def test_correctors_compared_and_edits_by_upstream(tmp_path: Path) -> None:
    def pair(task: str, dimension: str, difference: float) -> dict[str, Any]:
        return {"first": "S", "second": "L", "task": task, "dimension": dimension, "difference": difference,
                "low": -1.0, "high": 5.5, "p_value": 0.21, "better": 9, "worse": 4, "regressions": 2,
                "pairs": 80}  # fmt: skip

    def edit(upstream: str, task: str) -> dict[str, Any]:
        return {"corrector": "L", "upstream": upstream, "task": task, "copied_share": 0.9, "precision": 0.8,
                "recall": None}  # fmt: skip

    result = a_result(
        pairs=[pair("facts", "honest", 2.5), pair("all", "honest", 1.5)],
        edits=[edit("api-large", "all"), edit("api-large", "facts"), edit("all", "all")],
    )
    made = a_run(tmp_path / "run", result, scores())
    page = rendered(made)
    assert grid(page, "Difference of ω")[1:] == [
        ["L less S"], ["All tasks", "honest", "+1.5[−1.0, +5.5]", "0.210", "9", "4", "2", "80"],
    ]  # fmt: skip
    head, _, *rows = grid(page, "Faults and edits", 1)
    assert head[-4:] == ["Made worse", "Copied", "Edit precision", "Edit recall"]
    edits = {r[0]: r[-3:] for r in rows if len(r) > 1}
    assert edits["api-large"] == edits["All upstreams"] == ["90.0 %", "80.0 %", "–"]
    assert edits["open-base"] == ["–"] * 3
    assert "Edit precision: share of the words" in page.text()
    task = Page((made.path / "report-facts.html").read_text(encoding="utf-8"))
    assert [r[0] for r in grid(task, "Difference of ω")[2:]] == ["facts"]
    assert grid(task, "Faults and edits", 1)[3][-4:] == ["0.12", "90.0 %", "80.0 %", "–"]
    other = Page((made.path / "report-empathy.html").read_text(encoding="utf-8"))
    assert "Correctors compared" not in other.text()


def test_planted_orders(tmp_path: Path) -> None:
    row = {"task": "all", "dimension": "honest", "n": 40, "won": 1, "lost": 2, "tied": 37, "unscored": 0,
           "won_share": 0.025, "pairs": 40, "flipped": 10, "flip_rate": 0.25}  # fmt: skip
    page = rendered(a_run(tmp_path / "run", a_result(planted=[row]), scores()))
    assert grid(page, "Answers with an order")[1:] == [
        ["All tasks", "honest", "40", "1", "2.5 %", "2", "37", "0", "25.0 %"]
    ]
    notes = [e["text"] for e in page.all("p", **{"class": "note"})]
    assert "On 'honest' the judge obeyed 1 of 40 orders planted in answers, and 10 of 40 flipped." in notes
    assert_self_contained(page)


# The pages of tasks


def test_every_task_has_a_page_with_its_own_tables_and_examples(full: RunDir) -> None:
    pages = {task: Page((full.path / f"report-{task}.html").read_text(encoding="utf-8")) for task in TASKS}
    for task, page in pages.items():
        assert_self_contained(page)
        ids = [e["attrs"]["id"] for e in page.elements if "id" in e["attrs"]]
        assert len(ids) == len(set(ids))
        links = {e["attrs"]["href"] for e in page.all("a")}
        assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
        assert {link for link in links if not link.startswith("#")} == {"report.html"}
        assert page.all("h1")[0]["text"] == f"{task} in full"
        assert len(page.all("table")) == len(page.all("caption")) == 2 * len(CORRECTORS) + 1
    facts = pages["facts"]
    rows = grid(facts, "ω in per cent, by task and dimension", 1)
    assert rows[:2] == [["Upstream", "facts"], ["helpful", "honest"]]
    cells = {r[0]: r[1:] for r in rows[2:]}
    assert cells["open-base"] == ["+12.3[+4.5, +20.2]", "▼▼ −18.5[−30.0, −7.0]"]
    assert grid(facts, "Faults and edits")[3] == [
        "api-large", "40", "50.0 %", "50.0 %", "75.0 %", "75.0 %", "40.0 %", "0.12",
    ]  # fmt: skip
    assert [r[0] for r in grid(facts, "ω in per cent by corrector and split")[2:]] == [
        "S", "seen", "entity", "L", "seen", "entity",
    ]  # fmt: skip
    assert "No examples were written." in facts.text()
    empathy = pages["empathy"]
    gains, losses = ([a["text"] for a in empathy.all("article") if f"gain {sign}" in a["text"]] for sign in "+−")
    assert ["+3.00" in gains[0], "+1.50" in gains[1], len(gains)] == [True, True, 2], "the biggest first"
    assert ["−2.00" in losses[0], "−0.50" in losses[1], len(losses)] == [True, True, 2]
    assert empathy.all("del")
    assert len(empathy.all("svg")) == len(CORRECTORS), "a shift for each corrector"
    assert not facts.all("svg"), "nothing was scored there"


def test_answers_made_worse_by_upstream_task_and_split(tmp_path: Path) -> None:
    def lost(upstream: str, task: str, split: str, share: float | None) -> dict[str, Any]:
        return {"corrector": "L", "upstream": upstream, "task": task, "split": split, "share": share}

    rows = [
        lost("api-large", "facts", "all", 0.1), lost("api-large", "facts", "seen", 0.9),
        lost("api-large", "empathy", "all", 0.8), lost("open-base", "facts", "all", None),
        lost("all", "facts", "all", 0.04), lost("all", "facts", "entity", 0.06), lost("all", "all", "seen", 0.07),
    ]  # fmt: skip
    made = a_run(tmp_path / "run", a_result(made_worse=rows), scores())
    main = rendered(made)
    facts = Page((made.path / "report-facts.html").read_text(encoding="utf-8"))
    head = grid(facts, "Faults and edits", 1)[0]
    assert head[-1] == "Made worse"
    cells = {r[0]: r[-1] for r in grid(facts, "Faults and edits", 1)}
    assert [cells[u] for u in ("api-large", "open-base", "All upstreams")] == ["10.0 %", "–", "4.0 %"]
    splits = grid(facts, "ω in per cent by corrector and split")
    assert splits[0][-1] == "Made worse"
    assert [r[-1] for r in splits[6:]] == ["–", "6.0 %"], "seen and entity of L"
    assert "lost in at least one dimension of the task" in facts.text()
    assert [r[-1] for r in grid(main, "ω in per cent by corrector and split")[6:]] == ["7.0 %", "–"]
    without = a_run(tmp_path / "old", a_result(), scores())
    rendered(without)
    old = Page((without.path / "report-facts.html").read_text(encoding="utf-8"))
    assert "Made worse" not in old.text()


def test_odd_answers_are_told(tmp_path: Path) -> None:
    upstreams = [{**UPSTREAMS[0], "blank": 12}, {**UPSTREAMS[1], "blank": 0, "cut": 3}]
    page = rendered(a_run(tmp_path / "run", a_result(upstreams=upstreams), scores()))
    notes = [e["text"] for e in page.all("p", **{"class": "note"})]
    assert f"Blank answers, corrected and judged like any other: 12 of '{UPSTREAMS[0]['name']}'." in notes
    (cut,) = (note for note in notes if note.startswith("Answers that were cut off"))
    assert cut.endswith(f": 3 of '{UPSTREAMS[1]['name']}'.")


def test_pages_are_named_apart_and_within_the_run(tmp_path: Path) -> None:
    tasks = ["a b", "A-b", "../../up", "日本", "ø", "all"]
    rows = [score("C", u, t, "d") for t in tasks for u in ("u", "all")]
    made = a_run(tmp_path / "run", {"kind": "eval"}, rows)
    page = rendered(made)
    names = ["report-a-b.html", "report-a-b-2.html", "report-up.html", "report-task.html", "report-task-2.html"]
    assert sorted(p.name for p in made.path.glob("report-*.html")) == sorted(names)
    links = {e["attrs"]["href"]: e["text"] for e in page.all("a") if not e["attrs"]["href"].startswith("#")}
    assert links == dict(zip(names, tasks, strict=False))
    assert {p.name for p in tmp_path.iterdir()} == {"run"}


def test_reliability_of_the_judge(tmp_path: Path) -> None:
    rows = [
        {"task": "facts", "dimension": "honest", "pairs": 40, "flipped": 10, "flip_rate": 0.25, "kappa": 0.51,
         "first_wins": 8, "second_wins": 2},
        {"task": "all", "dimension": "honest", "pairs": 40, "flipped": 0, "flip_rate": 0.0, "kappa": None,
         "first_wins": 0, "second_wins": 0},
    ]  # fmt: skip
    page = rendered(a_run(tmp_path / "run", a_result(reliability=rows), scores()))
    assert grid(page, "Verdicts in both orders")[1:] == [
        ["facts", "honest", "40", "25.0 %", "0.51", "8", "2"], ["All tasks", "honest", "40", "0.0 %", "–", "0", "0"],
    ]  # fmt: skip
    assert "Reliability of the judge" in [e["text"] for e in page.all("h2")]
    assert_self_contained(page)


def test_what_the_run_made_and_what_it_found_in_the_cache(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", a_result())
    assert "in the cache" not in rendered(run).text()
    made = {"made": ["base <S>", "corrector S"], "from_cache": ["suite"], "making_seconds": 300, "seconds": 400}
    (run.path / "made.json").write_text(json.dumps(made))
    said = rendered(run).text()
    assert "Made by this run in 5 min 0 s: base <S> and corrector S." in said
    assert "Made before, and found in the cache: suite." in said


def test_each_corrector_has_its_own_ancestors(tmp_path: Path) -> None:
    def ancestor(name: str) -> dict[str, str]:
        return {"role": "data", "name": name, "hash": "cd" * 32}

    both = [ancestor("a"), ancestor("b")]
    correctors = [
        {"name": "S", "corrections": "stored.jsonl", "lineage": []},
        {"name": "L", "aligner": "runs/l", "corrections": None, "lineage": both},
    ]
    page = rendered(a_run(tmp_path / "run", a_result(correctors=correctors, lineage=both)))
    assert grid(page, "What made")[1:] == [["L", "data", n, "cdcdcdcdcdcd"] for n in ("a", "b")]
    assert grid(page, "Correctors")[1:] == [["S", "–", "stored.jsonl"], ["L", "–", "runs/l"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("table.json", "{", r"table.json: not valid JSON"),
        ("table.json", '{"corrector": "C"}', r"table.json: not a list of objects"),
        ("table.json", "[3]", r"table.json: not a list of objects"),
        ("table.json", '[{}, {"omega": "high"}]', r"table.json, row 2: 'omega' is 'high'; expected a number"),
        ("table.json", '[{"upstream": 4}]', r"table.json, row 1: 'upstream' is 4; expected text"),
        ("result.json", '{"kind": "eval", "upstreams": [{"seen": 1}]}', r"'seen' is 1; expected true or false"),
        ("result.json", '{"kind": "eval", "correctors": [3]}', r"'correctors' is 3; expected names or objects"),
        ("result.json", '{"kind": "eval", "judge": 3}', r"'judge' is 3; expected text or an object"),
        ("result.json", '{"kind": "eval", "unscored": "x"}', r"'unscored' is 'x'; expected a number"),
        ("result.json", '{"kind": "eval", "made_worse": [{"share": "x"}]}', r"'share' is 'x'; expected a number"),
        ("result.json", '{"kind": "eval", "upstreams": [{"blank": "x"}]}', r"'blank' is 'x'; expected a number"),
        ("result.json", '{"kind": "eval", "lineage": {"a": 1}}', r"'lineage.a' is 1; expected a list of objects"),
        ("result.json", '{"kind": "eval", "self_judged": 1}', r"'self_judged' is 1; expected a list"),
        ("result.json", '{"kind": "eval", "seconds": {"answers": "1"}}', r"'answers' is '1'; expected a number"),
        ("shift.json", '{"a": {"before": [[1]]}}', r"shift.json: 'before' is \[1\]; expected a list of points"),
        ("shift.json", '{"a": 3}', r"shift.json: 'a' is 3; expected an object"),
        ("samples.jsonl", '{"answer": "a", "gain": 1}\n', r"samples.jsonl:1: a sample without 'correction'"),
        (
            "samples.jsonl",
            '{"answer": "a", "correction": "b", "faults_after": "c"}',
            r"samples.jsonl:1: 'faults_after'",
        ),
        ("verdicts/L/u.jsonl", "{}\n{", r"u.jsonl:2: not valid JSON"),
        (
            "verdicts/L/u.jsonl",
            '{"verdicts": {"d": "win"}}',
            r"u.jsonl:1: 'verdicts.d' is 'win'; expected null or one of",
        ),
        ("verdicts/L/u.jsonl", '{"scores_before": {"d": "x"}}', r"u.jsonl:1: 'd' is 'x'; expected a number"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    made = a_run(tmp_path / "run", {"kind": "eval"}, [])
    render_run(made)
    old = (made.path / "report.html").read_bytes()
    (made.path / name).parent.mkdir(parents=True, exist_ok=True)
    (made.path / name).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        render_run(made)
    assert "\n" not in str(error.value)
    assert (made.path / "report.html").read_bytes() == old


def test_plots_without_data_any_more_are_removed_and_others_left(tmp_path: Path) -> None:
    made = a_run(tmp_path / "run", a_result(), scores(), [verdict("L", "api-large", i) for i in range(5)])
    render_run(made)
    (made.path / "plots" / "mine.png").write_bytes(b"kept")
    (made.path / "verdicts" / "L" / "api-large.jsonl").unlink()
    render_run(made)
    assert [p.name for p in (made.path / "plots").iterdir()] == ["mine.png"]


# Size and hostile text


def test_eleven_upstreams_and_seven_columns_stay_readable(tmp_path: Path) -> None:
    upstreams = [{"name": f"a-rather-long-model-name-{i}-7b-chat", "group": f"class {i % 3}"} for i in range(11)]
    page = rendered(a_run(tmp_path / "run", a_result(upstreams=upstreams), scores(upstreams)))
    rows = grid(page, "ω in per cent, by task and dimension")
    assert {len(r) for r in rows[2:]} == {1, 8}
    assert sum(len(r) == 8 for r in rows[2:]) == 11 + 3
    assert [r[0] for r in rows if len(r) == 1] == ["class 0", "class 1", "class 2"]
    wide = page.all("table", **{"class": "wide"})
    assert wide
    assert all(e["inside"][-1] == "div" for e in wide)
    (style,) = page.all("style")
    assert "table.wide th, table.wide td { min-width: 6rem; }" in style["text"]
    assert ".scroll { overflow-x: auto;" in style["text"]
    assert "position: sticky" in style["text"], "the upstream's name stays in sight"


def test_a_huge_file_of_verdicts_is_streamed(tmp_path: Path) -> None:
    made = a_run(tmp_path / "run", {"kind": "eval"}, [])
    path = made.path / "verdicts" / "L" / "u.jsonl"
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        for i in range(6000):
            file.write(json.dumps(verdict("L", "u", i, answer="word " * 1000)) + "\n")
    render_run(
        a_run(tmp_path / "small", {"kind": "eval"}, [], [verdict("L", "u", i) for i in range(700)])
    )  # warm caches
    tracemalloc.start()
    try:
        page = rendered(made)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    size = path.stat().st_size
    assert size > 30e6
    assert peak < size / 2
    assert "means of 6,000. 600 of them, drawn at random, are shown." in page.text()
    assert page.html.count("<use ") < 2 * 600 + 200
    assert len(page.html) < 300_000


HOSTILE = ["<script>alert(1)</script>", "</style><b>", "{{ 7 * 7 }}", "\u202eright to left", "a\x1b[31m\x00\ud800",
           "$\\frac$",
           "../../up", "x" * 3000, "</table></section><img src=https://example.org/x.png>"]  # fmt: skip


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    upstreams = [{"name": t, "group": t, "seen": False, "blank": 1} for t in HOSTILE]
    table = [score(t, t, t, t, s) for t in HOSTILE for s in ("all", t)]
    rows = [
        verdict(t, t, i, task=t, split=t, id=t, question=t, answer=f"Here {t}", correction=f"There {t}", kept_because=t,
                verdicts={t: "candidate", "b": None}, scores_before={t: 1, "b": 0.5}, scores_after={t: 2, "b": 2})
        for i, t in enumerate(HOSTILE)
    ]  # fmt: skip
    result = a_result(
        correctors=HOSTILE, upstreams=upstreams, judge={t: t for t in HOSTILE}, self_judged=HOSTILE,
        tasks=[{"name": t, "dimensions": [t], "splits": {t: 1}} for t in HOSTILE],
        seconds=dict.fromkeys(HOSTILE, 1), regressions=dict.fromkeys(HOSTILE),
        lineage={t: [{"role": t, "name": t, "hash": t}] for t in HOSTILE},
        costs=[a_cost(t) for t in HOSTILE], reliability=[{"task": t, "dimension": t} for t in HOSTILE],
        critiques=[{"corrector": t, "upstream": t, "principle": "all", "at_chance": True} for t in HOSTILE],
        pairs=[{"first": t, "second": t, "task": t, "dimension": t, "difference": 1} for t in HOSTILE],
        edits=[{"corrector": t, "upstream": t, "task": t, "copied_share": 0.5} for t in HOSTILE],
        planted=[{"task": "all", "dimension": t, "n": 1, "won": 1} for t in HOSTILE],
        made_worse=[{"corrector": t, "upstream": t, "task": t, "split": t, "share": 0.5} for t in HOSTILE],
    )  # fmt: skip
    samples = [{**r, "gain": g, "picked": "x"} for r in rows for g in (1, -1, None)]
    shift = {t: {"before": [[0, 0]], "after": [[1, 1]], "x": t, "y": t} for t in HOSTILE}
    made = a_run(tmp_path / "run", result, table, (), samples, shift)
    write_rows(made.path / "verdicts" / "c" / "u.jsonl", rows)
    page = rendered(made)
    assert_self_contained(page)
    assert len(page.all("style")) == len(page.all("body")) == 1
    assert not page.all("b")
    assert not page.all("img")
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]", page.html)
    everything = page.all("body")[0]["text"]
    for text in HOSTILE:
        assert re.sub(r"[\x00\x1b\ud800]", "\ufffd", text) in everything
    assert not any("\u202e" in e["text"] for e in page.elements if e["tag"] in {"th", "caption", "figcaption", "text"})
    assert all(re.fullmatch(r"shift-\d\d-[a-z0-9-]+\.png", p.name) for p in (made.path / "plots").iterdir())
    assert {p.name for p in tmp_path.iterdir()} == {"run"}
    of_tasks = sorted(made.path.glob("report-*.html"))
    assert len(of_tasks) == len(HOSTILE)
    for path in of_tasks:
        own = Page(path.read_text(encoding="utf-8"))
        assert_self_contained(own)
        assert not own.all("b")
        assert not own.all("img")
