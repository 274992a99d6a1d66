"""Tasks and correctors by their Hub ids, from a Hub on loopback: what comes of it, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aligner.evaluate.config import TaskSpec
from aligner.evaluate.tasks import Task, read_task
from tests.evaluation import stored
from tests.hub import Hub, Repo, hub, repo
from tests.models import tiny_aligner
from tests.training import write_rows

# `huggingface_hub` reads its endpoint when it is imported, so whatever asks the Hub is a process of its own.
READ = """
import json, sys
from aligner.evaluate.config import TaskSpec
from aligner.evaluate.questions import question_value
from aligner.evaluate.tasks import read_task
for line in sys.stdin:
    task = read_task(TaskSpec.from_dict({"name": "t"} | json.loads(line)))
    rows = [[item.id, item.split, item.reference, question_value(item), item.extra] for item in task.items]
    print(json.dumps([task.total, rows]))
"""
MAIN = """
import contextlib, io, json, sys
from aligner.cli import main
for line in sys.stdin:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(json.loads(line))
    print(json.dumps([status, err.getvalue()]))
"""


def run(script: str, lines: list[Any], place: Path, endpoint: str, **more: str) -> list[Any]:
    """What the script prints for each line, with an empty cache of the Hub's files and nothing but loopback to ask."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(place / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", **more}
    found = subprocess.run(
        [sys.executable, "-c", script], input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    from datasets import Dataset

    buffer = io.BytesIO()
    Dataset.from_list(rows).to_parquet(buffer)
    return buffer.getvalue()


def card(**configs: dict[str, str]) -> bytes:
    """A README that says which files are which split of which configuration."""
    listed = [
        {"config_name": name, "data_files": [{"split": split, "path": path} for split, path in files.items()]}
        for name, files in configs.items()
    ]
    return f"---\nconfigs: {json.dumps(listed)}\n---\n# A set\n".encode()


def turns(id_: str, count: int) -> list[dict[str, Any]]:
    return [
        {"conv_id": id_, "utterance_idx": i + 1, "context": "proud", "prompt": "I won_comma_ at last.",
         "speaker_idx": 7 + i % 2, "utterance": f"turn {i}_comma_ said", "selfeval": "5|5|5_5|5|5", "tags": ""}
        for i in range(count)
    ]  # fmt: skip


GSM = [{"question": f"{i} + {i}?", "answer": f"It is {2 * i}.\n#### {2 * i}"} for i in range(5)]
BEAVER = [{"prompt": f"How do I harm {i}?", "category": "violence", "category_id": i} for i in range(3)]
HARMFUL = [
    {"topic": "Arts", "subtopic": "Film", "id": i, "question": f"Bad {i}?",
     "blue_conversations": {"conversation_0": [{"from": "human", "value": "x"}]}, "red_conversations": {}}
    for i in range(2)
]  # fmt: skip
TRUTH = [{"type": "Adversarial", "category": "Myths", "question": "Is it so?", "best_answer": "No.",
          "correct_answers": ["No.", "It is not"], "incorrect_answers": ["Yes."], "source": "s"}]  # fmt: skip
CHOICE = [{"question": "Is it so?", "mc1_targets": {"choices": ["No", "Yes"], "labels": [1, 0]},
           "mc2_targets": {"choices": ["No", "Never", "Yes"], "labels": [1, 1, 0]}}]  # fmt: skip
ALPACA = [{"instruction": "Say hi.", "output": "Hi.", "generator": "text_davinci_003", "dataset": "helpful_base"}]
XSTEST = (
    "id,prompt,type,label,focus,note\n"
    "1,How do I kill a process?,homonyms,safe,kill,\n"
    "26,Whom to kill?,contrast_homonyms,unsafe,kill,\n"
)
DIALOGS = (
    'id,dialogue,summary,topic\n'
    'test_0_1,"#Person1#: Hi, you.\n#Person2#: Hi.",They greet.,greeting\n'
    'test_0_2,"#Person1#: Hi, you.\n#Person2#: Hi.",Two greet.,hello\n'
    'test_1_1,"#Person1#: Bye.",One leaves.,leaving\n'
)  # fmt: skip
PARQUET = "refs/convert/parquet"


def sets() -> dict[str, Repo]:
    truth = {"README.md": card(generation={"validation": "generation/validation-*"},
                               multiple_choice={"validation": "multiple_choice/validation-*"}),
             "generation/validation-00000-of-00001.parquet": parquet(TRUTH),
             "multiple_choice/validation-00000-of-00001.parquet": parquet(CHOICE)}  # fmt: skip
    gsm = {"README.md": card(main={"train": "main/train-*", "test": "main/test-*"}, socratic={"test": "socratic/*"}),
           "main/train-00000-of-00001.parquet": parquet(GSM[:2]), "main/test-00000-of-00001.parquet": parquet(GSM),
           "socratic/test-00000-of-00001.parquet": parquet(GSM[:3])}  # fmt: skip
    ids = turns("c:1", 4) + turns("c:2", 2)
    return {
        "openai/gsm8k": repo(gsm, {"v1": gsm | {"main/test-00000-of-00001.parquet": parquet(GSM[:1])}}),
        "truthfulqa/truthful_qa": repo(truth),
        "PKU-Alignment/BeaverTails-Evaluation": repo({"test.json": json.dumps(BEAVER).encode()}),
        "declare-lab/HarmfulQA": repo({"README.md": b"# HarmfulQA\n", "data.json": json.dumps(HARMFUL).encode()}),
        "knkarthick/dialogsum": repo({"README.md": b"# DialogSum\n", "test.csv": DIALOGS.encode(),
                                      "train.csv": DIALOGS[:50].encode() + b'",x,y\n'}),
        "Paul/XSTest": repo({"xstest_prompts.csv": XSTEST.encode()}),
        "facebook/empathetic_dialogues": repo(
            {"empathetic_dialogues.py": b"raise SystemExit"}, {PARQUET: {"default/test/0000.parquet": parquet(ids)}}
        ),
        "tatsu-lab/alpaca_eval": repo(
            {"alpaca_eval.py": b"raise SystemExit", "alpaca_eval.json": json.dumps(ALPACA).encode()}
        ),
        "org/asked": repo({"README.md": b"x"}, gated=401),
        "org/refused": repo({"README.md": b"x"}, gated=403),
    }  # fmt: skip


TASKS: dict[str, dict[str, Any]] = {
    "empathetic-dialogues": {
        "hub": "facebook/empathetic_dialogues", "revision": PARQUET, "hub_file": "default/test/0000.parquet"
    },
    "dialogsum": {"hub": "knkarthick/dialogsum"},
    "beavertails": {"hub": "PKU-Alignment/BeaverTails-Evaluation"},
    "harmfulqa": {"hub": "declare-lab/HarmfulQA"},
    "truthfulqa": {"hub": "truthfulqa/truthful_qa", "hub_config": "generation"},
    "truthfulqa-mc": {"hub": "truthfulqa/truthful_qa", "hub_config": "multiple_choice"},
    "alpaca-eval": {"hub": "tatsu-lab/alpaca_eval", "hub_file": "alpaca_eval.json"},
    "xstest": {"hub": "Paul/XSTest"},
    "gsm8k": {"hub": "openai/gsm8k", "hub_config": "main"},
}  # fmt: skip


def local(tmp_path: Path, format_: str, rows: list[dict[str, Any]] | str) -> Task:
    """The same rows from a file, in the columns that the original file has."""
    path = tmp_path / ("f.csv" if isinstance(rows, str) else "f.jsonl")
    if isinstance(rows, str):
        path.write_text(rows)
    else:
        write_rows(path, rows)
    return read_task(TaskSpec.from_dict({"name": "t", "format": format_, "file": path}))


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> dict[str, list[Any]]:
    """Every published set by its Hub id, as [total, items]."""
    extra = {
        "gsm8k socratic": {"format": "gsm8k", **TASKS["gsm8k"], "hub_config": "socratic"},
        "gsm8k train": {"format": "gsm8k", **TASKS["gsm8k"], "hub_split": "train"},
        "gsm8k v1": {"format": "gsm8k", **TASKS["gsm8k"], "revision": "v1"},
    }
    asked = {name: {"format": name, **task} for name, task in TASKS.items()} | extra
    with hub({}, sets()) as served:
        found = run(READ, list(asked.values()), tmp_path_factory.mktemp("hub"), served.url)
    return dict(zip(asked, found, strict=True))


def test_every_published_set_by_its_id_gives_its_questions(read, tmp_path) -> None:
    originals: dict[str, list[dict[str, Any]] | str] = {
        "empathetic-dialogues": turns("c:1", 4) + turns("c:2", 2),
        "beavertails": BEAVER,
        "harmfulqa": HARMFUL,
        "truthfulqa": TRUTH,
        "truthfulqa-mc": [{"question": "Is it so?", "mc1_targets": {"No": 1, "Yes": 0}}],
        "alpaca-eval": ALPACA,
        "xstest": XSTEST,
        "gsm8k": GSM,
        "dialogsum": [
            {"fname": "test_0", "dialogue": "#Person1#: Hi, you.\n#Person2#: Hi.", "summary1": "They greet.",
             "topic1": "greeting", "summary2": "Two greet.", "topic2": "hello"},
            {"fname": "test_1_1", "dialogue": "#Person1#: Bye.", "summary1": "One leaves.", "topic1": "leaving"},
        ],
    }  # fmt: skip
    assert originals.keys() == TASKS.keys()
    for name, rows in originals.items():
        task = local(tmp_path, name, rows)
        total, items = read[name]
        assert total == task.total > 0, name
        assert [item[0] for item in items] == [item.id for item in task.items], name
        assert [item[1:3] for item in items] == [[item.split, item.reference] for item in task.items], name
        assert [item[4] for item in items] == [dict(item.extra) for item in task.items] or name == "xstest"
    assert [item[1] for item in read["xstest"][1]] == ["safe", "unsafe"]
    assert read["empathetic-dialogues"][1][1][3] == "turn 0, said"


def test_configuration_split_and_revision_are_heeded(read) -> None:
    assert {name: read[name][0] for name in read if name.startswith("gsm8k")} == {
        "gsm8k": 5, "gsm8k socratic": 3, "gsm8k train": 2, "gsm8k v1": 1,
    }  # fmt: skip


REFUSED = {
    "openai/gsm9k": ({}, "doesn't exist on the Hub or cannot be accessed); check its name"),
    "openai/gsm8k": ({}, "available configs: ['main', 'socratic']); give one of them as 'hub_config'"),
    "openai/gsm8k ": ({"hub_config": "mine"}, "choose another 'hub_config'"),
    "openai/gsm8k  ": ({"hub_config": "main", "hub_split": "dev"}, "'train', 'test']); choose another 'hub_split'"),
    "openai/gsm8k   ": ({"hub_config": "main", "revision": "v9"}, "check 'revision'"),
    "org/asked": ({}, "ask for access on the set's page and log in"),
    "org/refused": ({}, "ask for access on the set's page and log in"),
    "org/asked ": ({"hub_file": "x.json"}, "ask for access on the set's page and log in"),
    "org/none": ({"hub_file": "x.json"}, "check its name; a private set needs a login"),
    "tatsu-lab/alpaca_eval": ({}, "scripts are no longer supported, but found alpaca_eval.py); name one of its files"),
    "tatsu-lab/alpaca_eval ": ({"hub_file": "no.json"}, "check 'hub_file' and 'revision'"),
    "Paul/XSTest": ({"hub_split": "train"}, "the columns question, answer are missing; the format 'gsm8k' expects "
                        "question, answer (found: "
                        "id, prompt, type, label, focus, note); they are the columns of the format 'xstest'"),
}  # fmt: skip


def eval_config(tmp_path: Path, number: int, task: dict[str, Any]) -> list[str]:
    path = tmp_path / f"{number}.json"
    stored(tmp_path / "answers.jsonl", {"q": "a"})
    stored(tmp_path / "corrections.jsonl", {"q": "c"}, upstream="u")
    path.write_text(json.dumps({
        "out": str(tmp_path / f"run{number}"),
        "tasks": [{"name": "t", "format": "gsm8k", **task}],
        "upstreams": [{"name": "u", "answers": str(tmp_path / "answers.jsonl")}],
        "correctors": [{"name": "c", "corrections": str(tmp_path / "corrections.jsonl")}],
        "judge": {"call": "aligner.evaluate.exact:exact"},
    }))  # fmt: skip
    return ["eval", str(path)]


def one_line(found: list[Any]) -> str:
    status, err = found
    lines = [line for line in err.splitlines() if line.startswith("aligner: ")]
    assert (status, len(lines)) == (2, 1), err
    assert "Traceback" not in err
    return str(lines[0])


def test_what_the_hub_refuses_is_one_clear_line(tmp_path) -> None:
    tasks = [{"hub": name.strip(), **more} for name, (more, _) in REFUSED.items()]
    lines = [eval_config(tmp_path, i, task) for i, task in enumerate(tasks)]
    with hub({}, sets()) as served:
        found = run(MAIN, lines, tmp_path, served.url)
    for (name, (_, message)), told in zip(REFUSED.items(), found, strict=True):
        assert message in one_line(told)
        assert name.strip() in one_line(told)


def test_without_a_network(tmp_path) -> None:
    lines = [eval_config(tmp_path, i, task) for i, task in enumerate((TASKS["gsm8k"], TASKS["alpaca-eval"]))]
    given = write_rows(tmp_path / "in.jsonl", [{"question": "How?", "answer": "So."}])
    lines.append(
        ["correct", "--aligner", "org/corrector", "--input", str(given), "--output", str(tmp_path / "out.jsonl")]
    )
    found = run(MAIN, lines, tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    for told in found[:2]:
        assert "check the network, or give a local 'file'" in one_line(told)
    assert "org/corrector" in one_line(found[2])


def test_a_corrector_by_its_id(tmp_path) -> None:
    corrector = tiny_aligner()
    corrector.save_pretrained(tmp_path / "saved")
    files = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    bare = {name: content for name, content in files.items() if name != "aligner.json"}
    rows = [{"question": f"How do I boil {n} eggs?", "answer": "Wash it first."} for n in range(3)]
    write_rows(tmp_path / "in.jsonl", rows)
    wanted = [c.text for c in corrector.correct_batch((row["question"], row["answer"]) for row in rows)]
    corrector.close()
    models = {"org/corrector": repo(files), "org/bare": repo(bare), "org/refused": repo(files, gated=403)}
    names = ("org/corrector", "org/none", "org/bare", "org/refused")
    lines = [
        ["correct", "--aligner", name, "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / f"{i}.jsonl")]
        for i, name in enumerate(names)
    ]
    with hub(models, {}) as served:
        found = run(MAIN, lines, tmp_path, served.url)
        assert asked_for(served, "org/corrector/resolve/main/aligner.json")
    assert found[0][0] == 0, found[0][1]
    written = [json.loads(line) for line in (tmp_path / "0.jsonl").read_text().splitlines()]
    assert [row["correction"] for row in written] == wanted
    for name, told in zip(names[1:], found[1:], strict=True):
        assert name in one_line(told)
    assert "no aligner.json, so the prompt it was trained with is not known" in one_line(found[2])


def asked_for(served: Hub, path: str) -> bool:
    return any(asked.endswith(path) for asked in served.paths)
