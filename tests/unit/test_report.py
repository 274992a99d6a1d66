"""The report: run directories built by hand, rendered, and the page read back with an HTML parser."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from aligner import edits
from aligner.config import Config
from aligner.errors import ConfigError, DataError, RunError, StorageError
from aligner.report import plots, samples
from aligner.report.curves import POINTS, read_stages, thin
from aligner.report.render import render_run
from aligner.report.run import ReportConfig, run
from aligner.runs import RunDir
from tests.pages import Page, assert_self_contained


class TrainLike(Config):
    data: str = "triplets.jsonl"
    note: str = "</code></pre><script>alert(1)</script>"
    learning_rate: float = 0.002


def step(stage: str, number: int, loss: float) -> dict[str, Any]:
    return {
        "stage": stage,
        "step": number,
        "loss": loss,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "tokens_per_s": 7e3,
        "seconds": 1,
    }


def sample(
    i: int, source: str = "web", answer: str = "The cat sat.", correction: str | None = None, **more: Any
) -> Any:
    correction = answer if correction is None else correction
    return {
        "id": f"row-{i}", "source": source, "question": "Where did the cat sit?", "answer": answer,
        "reference": "The cat sat down.", "correction": correction, "kept_because": None, "flags": [],
        "edit_ratio": edits.edit_ratio(answer, correction), "copied_share": edits.copied_share(answer, correction),
        "is_copy": answer == correction, **more,
    }  # fmt: skip


def held_out(source: str, **more: Any) -> dict[str, Any]:
    return {
        "source": source, "n": 300, "loss_before": 2.5, "loss": 0.84, "generated": 100, "copied_share": 0.81,
        "edit_ratio": 0.23, "untouched": 0.4, "reference_copied_share": 0.7, "reference_edit_ratio": 0.31, **more,
    }  # fmt: skip


def a_result(**more: Any) -> dict[str, Any]:
    return {
        "kind": "train",
        "parameters": 2_134_016,
        "rows": {"read": 1000, "train": 880, "held_out": 100, "dropped": {"too_long": 18, "empty": 2}},
        "stages": [
            {"name": "warmup", "rows": 200, "steps": 50, "tokens": 12_000, "seconds": 4.0,
             "loss_first": 6, "loss_last": 1},
            {"name": "residual", "rows": 880, "steps": 150, "tokens": 60_000, "seconds": 71.0,
             "loss_first": 1.5, "loss_last": 0.5},
        ],
        "held_out": [held_out("web"), held_out("books", n=100, loss=1.04)],
        "lineage": [{"role": "data", "name": "triplets.jsonl", "hash": "ab12" * 16}],
        **more,
    }  # fmt: skip


def a_run(
    path: Path,
    metrics: Iterable[dict[str, Any]] | None = None,
    rows: Iterable[dict[str, Any]] | None = None,
    result: dict[str, Any] | None = None,
) -> RunDir:
    made = RunDir.create(path, TrainLike())
    for name, values in (("metrics", metrics), ("samples", rows)):
        if values is not None:
            (path / f"{name}.jsonl").write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    if result is not None:
        made.write_result(result)
    return made


def full_metrics() -> Iterator[dict[str, Any]]:
    for stage in ("warmup", "residual"):
        for i in range(1, 61):
            yield step(stage, i, 5 / i + 0.5)
            if i % 20 == 0:
                for source in ("all", "web", "books"):
                    yield {"stage": stage, "step": i, "held_out_loss": 1 + 1 / i, "source": source}


def full_samples() -> list[dict[str, Any]]:
    return [
        sample(1, "web", "The cat sat.", "The dog sat quietly."),
        sample(2, "books", "A short answer.", "A kind and short answer.", flags=["marker_in_answer"]),
        sample(3, "books"),
        sample(4, "forum", kept_because="lost_code_fence"),
    ]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    made = a_run(tmp_path_factory.mktemp("runs") / "full", full_metrics(), full_samples(), a_result())
    render_run(made)
    return made


@pytest.fixture(scope="module")
def page(full: RunDir) -> Page:
    return Page((full.path / "report.html").read_text(encoding="utf-8"))


def rendered(made: RunDir) -> Page:
    return Page(render_run(made).read_text(encoding="utf-8"))


# The page


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    assert_self_contained(page)


def test_plots_are_in_the_page_and_beside_it(full: RunDir, page: Page) -> None:
    assert len(page.all("svg", role="img")) == 3
    assert all("var(--plot-" in s for s in re.findall(r"<svg.*?</svg>", page.html, re.DOTALL))
    for name in ("loss.png", "edits.png"):
        data = (full.path / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", data[16:24])
        assert width > 500
        assert height > 300


def test_ids_are_unique(page: Page) -> None:
    ids = [e["attrs"]["id"] for e in page.elements if "id" in e["attrs"]]
    assert len(ids) == len(set(ids))
    targets = [e["attrs"]["href"][1:] for e in page.all("a")]
    assert targets
    assert set(targets) <= set(ids)
    references = re.findall(r"url\(#([^)]+)\)|xlink:href=\"#([^\"]+)\"", page.html)
    assert {a or b for a, b in references} <= set(ids)


def test_every_plot_color_has_a_light_and_a_dark_value(page: Page) -> None:
    used = set(re.findall(r"var\((--plot-\w+)\)", page.html))
    assert {"--plot-train", "--plot-held", "--plot-a", "--plot-b", "--plot-ink"} <= used
    light, dark = re.findall(r":root \{(.*?)\}", page.html, re.DOTALL)
    for name in used:
        assert f"{name}:" in light
        assert f"{name}:" in dark
    # A color that the page does not know would vanish on a dark background.
    assert not re.findall(r"(?:stroke|fill): #[0-9a-f]{6}", page.html)


def test_style_sheet_and_plots_name_the_same_light_colors(page: Page) -> None:
    light = re.findall(r":root \{(.*?)\}", page.html, re.DOTALL)[0]
    for name, color in plots._COLORS.items():
        assert f"--plot-{name}: {color};" in light


def test_sections_and_semantics(page: Page) -> None:
    assert [e["text"] for e in page.all("h2")] == [
        "Loss", "Held-out rows", "Samples", "Configuration", "Hardware and versions", "Lineage",
    ]  # fmt: skip
    assert page.all("html")[0]["attrs"]["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert page.all("meta", name="viewport")
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(e["attrs"].get("scope") for e in page.all("th"))
    assert "prefers-color-scheme: dark" in page.html
    assert "@media print" in page.html


def test_summary_is_in_plain_words(page: Page) -> None:
    said = page.text()
    assert "This run trained a corrector of 2.1 million parameters." in said
    assert (
        "Of 1,000 rows read, 880 were trained on, 100 were held out and 20 were left out (too long: 18, empty: 2)."
        in said
    )
    assert "Training took 200 steps, 72,000 tokens and 1 min 15 s in 2 stages: warmup and residual." in said
    assert "On 400 held-out rows the loss fell from 2.500 to 0.890." in said
    assert "Of 200 held-out answers corrected, 40.0 % came back unchanged; on average 81.0 % of the words" in said
    assert "In 1 of 4 samples the original answer was kept (a code fence was lost: 1)." in said
    assert "worse" not in said
    assert "not finished" not in said


def test_held_out_table(page: Page) -> None:
    assert page.table("By source") == [
        ["web", "300", "2.500", "0.840", "100", "40.0 %", "81.0 %", "70.0 %", "0.23", "0.31"],
        ["books", "100", "2.500", "1.040", "100", "40.0 %", "81.0 %", "70.0 %", "0.23", "0.31"],
    ]


def test_stage_table(page: Page) -> None:
    assert page.table("Stages") == [
        ["warmup", "200", "50", "12,000", "4.0 s", "3,000", "6.000", "1.000"],
        ["residual", "880", "150", "60,000", "1 min 11 s", "845", "1.500", "0.500"],
    ]


def test_samples_are_shown_with_their_edits(page: Page) -> None:
    shown = page.all("article")
    assert len(shown) == 4
    assert "4 of 4 samples are shown" in page.text()
    assert {e["text"] for e in page.all("ins") if "article" in e["inside"]} == {"dog", " quietly", "kind and "}
    assert [e["text"] for e in page.all("del") if "article" in e["inside"]] == ["cat"]
    said = [" ".join(e["text"].split()) for e in shown]
    assert {"web", "books", "forum"} <= {w for s in said for w in s.split()}
    assert any("marker_in_answer" in s for s in said)
    assert any("original kept: a code fence was lost" in s for s in said)
    references = [e for e in page.all("details") if "article" in e["inside"]]
    assert len(references) == 4
    assert all("The cat sat down." in e["text"] and "open" not in e["attrs"] for e in references)


def test_configuration_machine_and_lineage(page: Page) -> None:
    (config,) = page.all("pre")
    assert "learning_rate: 0.002" in config["text"]
    assert "<script>alert(1)</script>" in config["text"]
    assert any(row[0] == "torch" for row in page.table("Packages"))
    assert page.table("What made") == [["data", "triplets.jsonl", "ab12ab12ab12"]]
    assert page.all("code", title="ab12" * 16)


def test_a_second_rendering_overwrites_and_is_the_same(tmp_path: Path) -> None:
    made = a_run(tmp_path / "run", full_metrics(), full_samples())
    assert render_run(made) == made.path / "report.html"
    first = {p.name: p.read_bytes() for p in made.path.iterdir()}
    render_run(made)
    assert {p.name: p.read_bytes() for p in made.path.iterdir()} == first
    made.write_result(a_result())
    assert "not finished" not in rendered(made).text()
    assert sorted(p.name for p in made.path.iterdir()) == sorted([*first, "result.json"]), "no temporary file stays"


def test_a_plot_without_data_any_more_is_removed(tmp_path: Path) -> None:
    made = a_run(tmp_path / "run", full_metrics(), full_samples())
    render_run(made)
    (made.path / "metrics.jsonl").write_text("")
    (made.path / "samples.jsonl").unlink()
    render_run(made)
    assert not list(made.path.glob("*.png"))


def test_a_failed_rendering_leaves_the_old_page(tmp_path: Path) -> None:
    made = a_run(tmp_path / "run", full_metrics(), full_samples(), a_result())
    old = render_run(made).read_bytes()
    with (made.path / "samples.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError):
        render_run(made)
    assert (made.path / "report.html").read_bytes() == old


# Unmeasured, unfinished, unusual


def test_unmeasured_is_a_dash_and_zero_is_zero(tmp_path: Path) -> None:
    nothing = dict.fromkeys([k for k in held_out("x") if k != "source"])
    values = a_result(
        parameters=None,
        held_out=[held_out("null", **nothing), {"source": "absent"}, held_out("zero", **dict.fromkeys(nothing, 0))],
        stages=[{"name": "only", **dict.fromkeys(("rows", "steps", "tokens", "seconds", "loss_first", "loss_last"))}],
        lineage=[{"role": "base", "name": "tiny", "hash": None}],
    )
    page = rendered(a_run(tmp_path / "run", result=values))
    null, absent, zero = page.table("By source")
    assert null[1:] == absent[1:] == ["–"] * 9
    assert zero[1:] == ["0", "0.000", "0.000", "0", "0.0 %", "0.0 %", "0.0 %", "0.00", "0.00"]
    assert page.table("Stages") == [["only", *["–"] * 7]]
    assert page.table("What made") == [["base", "tiny", "–"]]
    assert all(e["text"] == "–" for e in page.all("span", title="not measured"))
    assert "None" not in page.text().replace("None of", "")
    assert "loss fell" not in page.text()
    assert "parameters" not in page.text()


@pytest.mark.parametrize("value", [{}, {"kind": "train"}, {"new": [1], "rows": None, "stages": [], "held_out": None}])
def test_a_result_may_lack_anything(tmp_path: Path, value: dict[str, Any]) -> None:
    page = rendered(a_run(tmp_path / "run", result=value))
    assert "not finished" not in page.text()
    assert "Nothing was measured on held-out rows." in page.text()


def test_a_run_of_another_kind(tmp_path: Path) -> None:
    page = rendered(a_run(tmp_path / "run", result={"kind": "bootstrap"}))
    assert "Bootstrap run" in page.text()
    assert "trained" not in page.text()


class ShadowLike(TrainLike):
    mode: str = "shadow"


def test_a_shadow_run(tmp_path: Path) -> None:
    """As the gateway writes it: a correction, a copy, a kept original, and one that failed."""
    row = {"model": "llama", "question": [{"role": "user", "content": "Where?"}], "answer": "The cat sat."}
    rows = [
        {**row, "correction": "The dog sat.", "reason": None, "diff": [["equal", "The "]], "edit_ratio": 0.3333},
        {**row, "correction": "The cat sat.", "reason": None, "edit_ratio": 0.0},
        {**row, "correction": "The cat sat.", "reason": "length", "model": 5},
        {**row, "correction": None, "reason": "correction_timeout", "error": "too slow"},
    ]
    made = RunDir.create(tmp_path / "run", ShadowLike())
    (made.path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = rendered(made)
    assert_self_contained(page)
    assert "Shadow run" in page.text()
    assert "The gateway recorded 4 answers in shadow mode" in page.text()
    assert "In 1 of 3 samples the original answer was kept (the answer was cut off: 1)." in page.text()
    (note,) = page.all("p", **{"class": "note"})
    assert note["text"] == "1 answer has no correction (correction timeout: 1): counted here alone."
    assert len(page.all("article")) == 3
    assert [h["text"].split(" (")[0] for h in page.all("h3")] == [
        "Largest edits", "Originals kept", "Answers left as they were",
    ]  # fmt: skip
    for words in ("not finished", "loss", "Loss", "Training", "when the run ends"):
        assert words not in page.text(), words
    assert not (made.path / "loss.png").exists()


def test_a_shadow_run_that_has_recorded_nothing(tmp_path: Path) -> None:
    page = rendered(RunDir.create(tmp_path / "run", ShadowLike()))
    assert "The gateway recorded 0 answers in shadow mode" in page.text()
    assert "No samples were written" in page.text()


def test_a_null_correction_of_another_run_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a sample without 'correction'"):
        render_run(a_run(tmp_path / "run", rows=[{**sample(1), "correction": None}]))


def test_an_unfinished_run_says_so_and_shows_what_there_is(tmp_path: Path) -> None:
    page = rendered(a_run(tmp_path / "run", full_metrics(), full_samples()))
    (note,) = page.all("p", **{"class": "note"})
    assert note["text"].startswith("This run is not finished")
    assert "Last seen in stage residual at step 60, training loss 0.583." in page.text()
    assert len(page.all("svg")) == 3
    assert len(page.all("article")) == 4


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    made = a_run(tmp_path / "run")
    made.metrics().close()
    made.samples().close()
    page = rendered(made)
    assert "No losses were recorded yet." in page.text()
    assert "No samples were written yet." in page.text()
    assert not page.all("svg")
    assert_self_contained(page)


def test_an_older_environment_and_none_at_all(tmp_path: Path) -> None:
    made = a_run(tmp_path / "run")
    (made.path / "env.json").write_text('{"accelerator": null, "disk_free": 7, "python": "3.11.2"}')
    text = rendered(made).text()
    assert "disk free7" in text
    assert "Python3.11.2" in text
    (made.path / "env.json").unlink()
    assert "Hardware and versions" in rendered(made).text()


def test_where_it_got_worse_is_said(tmp_path: Path) -> None:
    table = [held_out("web"), held_out("math", loss_before=1.0, loss=1.2), held_out("all", n=600, loss=0.9)]
    page = rendered(a_run(tmp_path / "run", result=a_result(held_out=table)))
    assert "On 600 held-out rows the loss fell from 2.500 to 0.900." in page.text(), "the union is not counted twice"
    assert "It got worse on math (1.000 to 1.200)." in page.text()
    rows = page.table("By source")
    assert [r[3] for r in rows] == ["0.840", "▲ worse 1.200", "0.900"]
    assert rows[-1][0] == "all sources"


def test_losses_that_are_not_numbers_are_told_and_not_drawn(tmp_path: Path) -> None:
    rows = [
        step("warmup", 1, 2.0),
        step("warmup", 2, math.nan),
        step("warmup", 3, math.inf),
        step("residual", 1, math.nan),
    ]
    values = a_result(held_out=[held_out("web", loss=math.nan)])
    page = rendered(a_run(tmp_path / "run", rows, result=values))
    assert "Stage warmup: 2 losses are not a finite number" in page.text()
    assert "Stage residual: 1 loss is not a finite number" in page.text()
    assert page.table("By source")[0][3] == "▲ worse not a number"


# Hostile text

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><style>body{display:none}</style>",
    "</div></article></body><img src=https://example.org/x.png onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "-->]]>&lt;b&gt;<!--",
    "\u202eright to left override",
    "שלום עולם, مرحبا بالعالم",
    "😀👩‍👩‍👧‍👦🏳️‍🌈",
    "x" * 30_000,
    "nul \x00 bell \x07 escape \x1b lone \ud800 end",
    "$\\frac{1}{0}$ and _underscore $",
    "文字\tแปล\r\nline\u2028separator",
    "@import url(https://example.org/x.css);",
    "fill: #1f2328; stroke: #59636f",
]


def hostile_run(path: Path) -> RunDir:
    metrics = [row for i, text in enumerate(HOSTILE) for row in (
        step(text, i, 1.0), {"stage": text, "step": i, "held_out_loss": 1.5, "source": text})]  # fmt: skip
    rows = [
        sample(i, text, f"Here: {text} so.", f"There: {text}{text[:50]}!", id=text, flags=[text],
               question=[{"role": "system", "content": text}, {"role": "user", "content": text}], reference=text)
        for i, text in enumerate(HOSTILE)
    ]  # fmt: skip
    rows += [sample(i, source=text, answer=text, kept_because=text or None) for i, text in enumerate(HOSTILE)]
    stages = [
        {"name": t, "rows": 1, "steps": 1, "tokens": 1, "seconds": 1.0, "loss_first": 1, "loss_last": 1}
        for t in HOSTILE
    ]
    result = a_result(
        kind="train",
        rows={"read": 1, "train": 1, "held_out": 1, "dropped": dict.fromkeys(HOSTILE[:3], 1)},
        stages=stages,
        held_out=[held_out(text) for text in HOSTILE],
        lineage=[{"role": text, "name": text, "hash": text} for text in HOSTILE],
    )
    # write_result writes UTF-8 as it is; lone surrogates reach result.json only as escapes.
    made = a_run(path, metrics, rows)
    (path / "result.json").write_text(json.dumps(result))
    (path / "env.json").write_text(
        json.dumps({"processor": HOSTILE[0], HOSTILE[1]: HOSTILE, "packages": {HOSTILE[2]: 1}})
    )
    return made


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    page = rendered(hostile_run(tmp_path / "<b>run & 'co'"))
    assert_self_contained(page)
    assert len(page.all("style")) == 1
    assert len(page.all("body")) == 1
    assert not page.all("b")
    assert page.all("h1")[0]["text"] == "<b>run & 'co'"
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]", page.html)
    everything = page.all("body")[0]["text"]
    for text in HOSTILE:
        visible = re.sub(r"[\x00\x07\x1b\ud800]", "\ufffd", text)[: samples.CLIP].replace("\r\n", "\n")
        assert visible in everything.replace("\r\n", "\n"), f"{text[:40]!r} is not shown"
    assert "Long texts are shown, and compared, up to their first 20,000 characters." in page.text()
    short = [e["text"] for e in page.elements if e["tag"] in {"p", "bdi", "td", "th"}]
    assert max(map(len, short)) < 3000, "a name of any length stays a name"
    assert not any("\u202e" in t for t in short)
    labels = [e["text"] for e in page.all("text")]
    assert labels.count("$\\frac{1}{0}$ and _undersco…") == 2, "no mathematics is set in title and legend"
    assert "fill: #1f2328; stroke: #596…" in "".join(labels)
    assert len(page.html) < 4_000_000


def test_shown_texts_find_their_own_direction(tmp_path: Path) -> None:
    page = rendered(a_run(tmp_path / "run", rows=[sample(1, answer="שלום", correction="שלום עולם")]))
    assert all(e["attrs"].get("dir") == "auto" for e in page.all("div", **{"class": "model"}))
    assert "overflow-wrap: anywhere" in page.html


def test_the_diff_of_a_sample_gives_back_both_texts(tmp_path: Path) -> None:
    answer, correction = "One <b>two</b>\n\n  three &amp; four\t.", "One <i>2</i>\n  three & four\t!\n"
    page = rendered(a_run(tmp_path / "run", rows=[sample(1, answer=answer, correction=correction)]))
    (shown,) = [
        e for e in re.findall(r'<div class="model" dir="auto">(.*?)</div>', page.html, re.DOTALL) if "<del" in e
    ]
    old = new = inside = ""
    for piece in re.split(r"(</?(?:ins|del)[^>]*>)", shown):
        if piece.startswith("<"):
            inside = "" if piece.startswith("</") else piece[1:4]
            continue
        old += unescape(piece) if inside != "ins" else ""
        new += unescape(piece) if inside != "del" else ""
    assert old == answer
    assert new == correction


def test_a_changed_line_break_can_be_seen(tmp_path: Path) -> None:
    page = rendered(a_run(tmp_path / "run", rows=[sample(1, answer="one two", correction="one two\n")]))
    assert [e["text"] for e in page.all("ins", **{"class": "break"})] == ["\n"]
    assert "ins.break::before" in page.html


# Which samples


def test_at_most_sixty_samples_and_every_source(tmp_path: Path) -> None:
    words = " ".join(f"w{i}" for i in range(40))
    rows = [
        sample(i, f"source-{i % 7}", words, " ".join(["new"] * (i % 40) + words.split()[i % 40 :])) for i in range(2000)
    ]
    rows += [sample(i, "rare", words) for i in range(2000, 2003)]
    rows += [sample(i, "source-1", words, kept_because="cut") for i in range(2003, 2100)]
    page = rendered(a_run(tmp_path / "run", rows=rows))
    assert "60 of 2,100 samples are shown" in page.text()
    articles = [" ".join(e["text"].split()) for e in page.all("article")]
    assert len(articles) == 60
    assert {a.split()[0] for a in articles} == {f"source-{i}" for i in range(7)} | {"rare"}
    assert [" ".join(e["text"].split()) for e in page.all("h3")] == [
        "Largest edits (36 of 1,950)", "Originals kept (12 of 97)", "Answers left as they were (12 of 53)",
    ]  # fmt: skip
    assert all("edit ratio 0.9" in a for a in articles[:36]), "the largest edits come first"


def test_a_chat_shows_all_its_turns(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Who are you?"}]  # fmt: skip
    page = rendered(a_run(tmp_path / "run", rows=[sample(1, question=chat), sample(2, question="")]))
    terms = [e["text"] for e in page.all("dt") if "article" in e["inside"]]
    assert terms == ["System", "User", "Assistant", "User", "Answer, left as it was", "Answer, left as it was"]
    assert [e["text"] for e in page.all("div", **{"class": "model"})][:4] == [t["content"] for t in chat]


# Curves


def test_two_hundred_thousand_rows(tmp_path: Path) -> None:
    lines = (f'{{"stage": "residual", "step": {i}, "loss": {2 - i / 200_000}}}\n' for i in range(200_000))
    made = a_run(tmp_path / "run")
    made.metrics_path.write_text("".join(lines))
    (stage,) = read_stages(made.metrics_path)
    assert stage.last_step == 199_999
    (ax,) = plots.loss_figure([stage]).axes
    (line,) = ax.get_lines()
    assert POINTS / 2 <= len(line.get_xdata()) <= POINTS
    assert stage.train.points() == thin((i, 2 - i / 200_000) for i in range(200_000))
    assert render_run(made).stat().st_size < 200_000


def test_sources_that_are_not_drawn_are_told(tmp_path: Path) -> None:
    rows = [{"stage": "a", "step": 1, "held_out_loss": 1.0, "source": f"s{i}"} for i in range(9)]
    assert "Of 9 held-out sources, 5 are drawn" in rendered(a_run(tmp_path / "run", rows)).text()


def test_rows_without_a_loss_are_passed_over(tmp_path: Path) -> None:
    rows = [
        {"event": "saved"},
        {"stage": "a", "step": 1, "loss": None},
        {"stage": "a", "step": 2, "held_out_loss": 1.0},
    ]
    (stage,) = read_stages(a_run(tmp_path / "run", rows).metrics_path)
    assert not stage.train.points()
    assert list(stage.held_out) == ["all"]


def test_resumed_steps_in_any_order_make_one_curve(tmp_path: Path) -> None:
    rows = [step("a", i, 1.0) for i in (1, 2, 3, 2, 3, 4)]
    (stage,) = read_stages(a_run(tmp_path / "run", rows).metrics_path)
    assert [p.step for p in stage.train.points()] == [1, 2, 3, 4]


# Errors


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        run(ReportConfig(run=tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", '{"stage": "a", "step": 1, "loss": 1}\n{"stage": ', r"metrics.jsonl:2: not valid JSON"),
        ("metrics.jsonl", '{"stage": "a", "loss": 1}\n', r"metrics.jsonl:1: a loss without the stage and step"),
        ("metrics.jsonl", '{"stage": "a", "step": 1, "loss": "low"}\n', r"metrics.jsonl:1: 'loss' is 'low'; expected"),
        ("metrics.jsonl", '{"stage": "a", "step": NaN, "loss": 1}\n', r"metrics.jsonl:1: a loss without"),
        ("samples.jsonl", "null\n", r"samples.jsonl:1: "),
        ("samples.jsonl", '{"answer": "a"}\n', r"samples.jsonl:1: a sample without 'correction'"),
        (
            "samples.jsonl",
            '{"answer": "a", "correction": "b", "question": 7}\n',
            r"samples.jsonl:1: the question cannot",
        ),
        ("samples.jsonl", '{"answer": "a", "correction": "b", "question": [{"role": "?"}]}\n', r"the role '\?'"),
        ("result.json", "{", r"result.json: not valid JSON"),
        ("result.json", "[]", r"result.json: a list where an object should be"),
        ("result.json", '{"held_out": 3}', r"'held_out' is 3; expected a list of objects"),
        ("result.json", '{"rows": {"dropped": []}}', r"'dropped' is \[\]; expected an object"),
        ("result.json", '{"parameters": true}', r"'parameters' is True; expected a number"),
        ("result.json", '{"stages": [{"name": 5}]}', r"'name' is 5; expected text"),
        ("env.json", "\x00", r"env.json: not valid JSON"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    made = a_run(tmp_path / "run")
    (made.path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        run(ReportConfig(run=made.path))
    assert not (made.path / "report.html").exists()


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("owner", "name", "file"), [(Path, "write_bytes", "loss.png"), (os, "fsync", "report.html")], ids=["plot", "page"]
)
def test_a_full_disk_is_told_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, file: str
) -> None:
    made = a_run(tmp_path / "run", full_metrics())
    render_run(made)
    old = (made.path / file).read_bytes()
    (made.path / "metrics.jsonl").write_text(json.dumps(step("other", 1, 1.0)))
    monkeypatch.setattr(owner, name, no_space)
    with pytest.raises(StorageError, match=f"{file}: cannot be written"):
        render_run(made)
    assert (made.path / file).read_bytes() == old
    assert not list(made.path.glob(".*"))


# The verb


def test_run_renders_and_returns_the_run(tmp_path: Path) -> None:
    made = a_run(tmp_path / "run", full_metrics(), full_samples(), a_result())
    assert run(ReportConfig.from_dict({"run": str(made.path)})) == made
    assert (made.path / "report.html").is_file()


def test_configuration_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="did you mean 'run'"):
        ReportConfig.from_dict({"runs": "x"})


def test_a_relative_path_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_run(tmp_path / "my-run")
    monkeypatch.chdir(tmp_path / "my-run")
    assert rendered(RunDir.open(".")).all("h1")[0]["text"] == "my-run"


def test_reporting_loads_no_model_library_and_no_pyplot() -> None:
    unwanted = {"torch", "transformers", "trl", "matplotlib.pyplot"}
    code = f"import sys, aligner.report.run; sys.exit(', '.join({unwanted!r} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
