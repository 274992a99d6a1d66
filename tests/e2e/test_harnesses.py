"""Other harnesses before the gateway: the files and the commands of docs/how-to/harnesses.md, run as they stand there.

The corrector was really trained; the judge follows a rule. Each test needs its harness on the PATH, which may be in an
environment of its own.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aligner.correct.aligner import Aligner
from aligner.evaluate.alpaca_eval import read_verdicts, win_rate
from aligner.train.config import Residual
from aligner.train.corrector import run as train
from tests.api_server import Api, Reply, completion, serving
from tests.serving import serving_command
from tests.training import tiny_config, toy_rows, write_rows

pytestmark = pytest.mark.slow

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "harnesses.md"
FILES = Path("runs/how-to-harnesses")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A corrector on disk, questions with the upstream's answers, and what the corrector makes of those."""

    corrector: Path
    answers: dict[str, str]
    wanted: dict[str, str]
    corrections: dict[str, str]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """It makes "omega" of "beta"; half of the answers end in the one."""
    place = tmp_path_factory.mktemp("stack")
    rows = toy_rows(400)
    residual = Residual(steps=150, batch_size=8, accumulation=2, learning_rate=3e-3)
    train(tiny_config(write_rows(place / "rows.jsonl", rows), place / "run", residual=residual))
    wrong = [row for row in rows if row["answer"].endswith("beta.")][:16]
    chosen = wrong + [row for row in rows if "beta" not in row["answer"]][:16]
    with Aligner.from_pretrained(place / "run") as aligner:
        made = {row["question"]: aligner.correct(row["question"], row["answer"]).text for row in chosen}
    return Stack(
        corrector=place / "run",
        answers={row["question"]: row["answer"] for row in chosen},
        wanted={row["question"]: row["correction"] for row in chosen},
        corrections=made,
    )


@contextmanager
def gateway(stack: Stack) -> Iterator[tuple[str, Api]]:
    """The how-to's `aligner serve`, before an upstream that answers as it is told."""
    with serving(lambda body: stack.answers[body["messages"][-1]["content"].strip()]) as upstream:
        (line,) = (c for c in commands() if c.startswith("aligner serve"))
        line = line.replace("http://localhost:8000/v1", upstream.url).replace("runs/my-corrector", str(stack.corrector))
        with serving_command(line.split()[1:]) as (address, _):
            yield address, upstream


def commands() -> list[str]:
    """The commands of the how-to's `console` blocks, in their order."""
    found = re.findall(r"^```console\n(.*?)^```$", HOW_TO.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [command.strip() for block in found for command in re.split(r"^\$ ", block, flags=re.MULTILINE) if command]


def written(place: Path, addresses: dict[str, str]) -> None:
    """The how-to's files, with addresses that are there."""
    for block in re.findall(r"^```sh\n(.*?)^```$", HOW_TO.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        subprocess.run(["bash", "-euo", "pipefail", "-c", block], check=True, cwd=place)
    for path in (place / FILES).rglob("*.yaml"):
        path.write_text(moved(path.read_text(encoding="utf-8"), addresses), encoding="utf-8")


def moved(text: str, addresses: dict[str, str]) -> str:
    for shown, there in addresses.items():
        text = text.replace(shown, there)
    return text


def harness(name: str) -> str:
    """The directory of a harness's commands, with a slash at its end; without the harness the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on the PATH; docs/how-to/harnesses.md says how to install it")
    return f"{Path(found).parent}/"


def call(command: str, place: Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hub"), "OPENAI_API_KEY": "judges-key"}
    environment.pop("PYTHONPATH", None)  # the harness has packages of its own
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=place, env=environment, text=True,
                          capture_output=True, timeout=600, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_lm_eval_measures_the_stack_and_the_upstream_alone(stack: Stack, tmp_path: Path) -> None:
    where = harness("lm_eval")
    runs = [c for c in commands() if "/lm_eval run" in c]
    assert len(runs) == 2
    with gateway(stack) as (url, upstream):
        addresses = {"http://127.0.0.1:8080": url, "harness-env/bin/": where}
        written(tmp_path, addresses)
        write_rows(tmp_path / FILES / "questions.jsonl", [
            {"question": q, "answer": text.rstrip(".").split()[-1]} for q, text in stack.wanted.items()
        ])  # fmt: skip
        shown = [call(moved(command, addresses), tmp_path) for command in runs]
        assert len(upstream.requests) == 2 * len(stack.answers)
        assert {body["model"] for body in upstream.requests} == {"llama"}
        assert not any("aligner" in body for body in upstream.requests)
    assert all("exact_match" in text for text in shown)
    corrected, plain = (_exact_match(tmp_path / FILES / name) for name in ("corrected", "plain"))
    assert plain == pytest.approx(0.5)
    right = sum(stack.corrections[q].split()[-1] == text.split()[-1] for q, text in stack.wanted.items())
    assert corrected == pytest.approx(right / len(stack.wanted))
    assert corrected > plain


def _exact_match(place: Path) -> float:
    (path,) = place.rglob("results_*.json")
    value = json.loads(path.read_text(encoding="utf-8"))["results"]["capitals"]["exact_match,last-word"]
    return float(value)


def test_alpaca_eval_compares_the_stack_with_the_upstream_alone(stack: Stack, tmp_path: Path) -> None:
    where = harness("alpaca_eval")
    copy, run = (c for c in commands() if c.startswith("cp ") or "/alpaca_eval evaluate" in c)
    with gateway(stack) as (url, upstream), serving(_judge) as judge:
        addresses = {"http://127.0.0.1:8080": url, "http://localhost:9000/v1": judge.url, "harness-env/bin/": where}
        written(tmp_path, addresses)
        rows = [{"instruction": question} for question in stack.answers]
        (tmp_path / FILES / "instructions.json").write_text(json.dumps(rows))
        call(moved(copy, addresses), tmp_path)
        shown = call(moved(run, addresses), tmp_path)
        assert {h["authorization"] for h in upstream.headers} == {"Bearer unused"}, "the judge's key goes to the judge"
        assert {h["authorization"] for h in judge.headers} == {"Bearer judges-key"}
    out = tmp_path / FILES / "alpaca-eval"
    for name, texts in (("model_outputs", stack.corrections), ("reference_outputs", stack.answers)):
        outputs = json.loads((out / f"{name}.json").read_text())
        assert {row["instruction"]: row["output"] for row in outputs} == texts
    changed = sum(stack.corrections[q] != answer for q, answer in stack.answers.items())
    assert len(judge.requests) == changed, "what is the same is not judged"
    points = [_points(stack.corrections[q], answer) for q, answer in stack.answers.items()]
    expected = 100 * sum(points) / len(points)
    assert expected > 60
    found = win_rate(read_verdicts(out / "annotations.json")["llama-corrected"])
    assert found.value == pytest.approx(expected), "our own reader reads what it leaves"
    assert f"{expected:.2f}" in next(line for line in shown.splitlines() if line.startswith("llama-corrected"))


def _judge(body: dict[str, Any]) -> Reply:
    """Prefers the output with fewer "beta", and says so as the annotator's prompt asks."""
    text = body["messages"][-1]["content"]
    first, second = re.findall(r'"model_identifier": "[mM]",\s*"output": """(.*?)"""', text, re.DOTALL)
    share = min(max(_points(first, second), 0.0), 1.0)
    tokens = {"m": share, "M": 1 - share}
    likely = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in tokens.items() if p > 0]
    reply = completion(max(tokens, key=lambda t: tokens[t]))
    reply["choices"][0]["logprobs"] = {"content": [{**likely[0], "top_logprobs": likely}]}
    return Reply(body=reply)


def _points(one: str, other: str) -> float:
    """1 where the one has fewer "beta" than the other, 0.5 where it has as many."""
    mine, theirs = one.count("beta"), other.count("beta")
    return 1.0 if mine < theirs else 0.5 if mine == theirs else 0.0
