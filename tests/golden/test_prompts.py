"""The presets letter by letter and id by id: what trained correctors were trained on must not change unseen.

A change that is meant is written down with `PYTHONPATH=. python tests/golden/test_prompts.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aligner.prompts import PromptFormat
from aligner.tokens import TextCodec
from aligner.types import as_chat
from tests.models import chatml_tokenizer, llama2_tokenizer

FILE = Path(__file__).with_name("prompts.json")
BUILDERS = {"chatml": chatml_tokenizer, "llama2": llama2_tokenizer}
PRESETS = ("chat", "aligner-v1", "aligner-repo")
QUESTION, ANSWER, CORRECTION = "How do I boil rice?", "Wash the rice. </s>", "Wash it first, then wait."


def snapshot(tokenizer: Any, preset: str) -> dict[str, Any]:
    """Everything that a preset decides, on one example row."""
    codec = TextCodec(tokenizer)
    layout = PromptFormat.preset(preset, tokenizer)
    prompt = layout.encode(codec, as_chat(QUESTION), ANSWER).ids
    completion = layout.encode_correction(codec, CORRECTION)
    return {
        "parts": layout.to_json(),
        "prompt_ids": list(prompt),
        "join": tokenizer.convert_ids_to_tokens([*prompt[-3:], *completion[:3]]),
        "completion_ids": list(completion),
        "stop_ids": sorted(layout.stop_ids(codec)),
    }


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", BUILDERS)
def test_as_recorded(kind: str, preset: str) -> None:
    recorded = json.loads(FILE.read_text(encoding="utf-8"))[kind][preset]
    assert snapshot(BUILDERS[kind](), preset) == recorded


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (
            "aligner-v1",
            "BEGINNING OF CONVERSATION: USER: Edit the following Question-Answer pair to make it more helpful and "
            "harmless: How do I boil rice? | Wash the rice. </s> ASSISTANT:",
        ),
        (
            "aligner-repo",
            "BEGINNING OF CONVERSATION: USER: ##Question: How do I boil rice?\n##Answer: Wash the rice. </s>"
            "\n##Correction:  ASSISTANT:",
        ),
    ],
)
def test_published_formats_letter_by_letter(kind: str, preset: str, expected: str) -> None:
    tokenizer = BUILDERS[kind]()
    codec = TextCodec(tokenizer)
    ids = PromptFormat.preset(preset, tokenizer).encode(codec, as_chat(QUESTION), ANSWER).ids
    assert codec.decode(ids) == expected
    assert ids.count(tokenizer.eos_token_id) == 0


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", BUILDERS)
def test_recorded_ids_say_what_the_recorded_parts_say(kind: str, preset: str) -> None:
    """The record itself is right: its ids spell its parts, and the end token stands once, last in the completion."""
    recorded = json.loads(FILE.read_text(encoding="utf-8"))[kind][preset]
    tokenizer, parts = BUILDERS[kind](), recorded["parts"]
    end = tokenizer.convert_tokens_to_ids(parts["end"])
    assert recorded["completion_ids"][-1] == end
    assert recorded["completion_ids"].count(end) == 1
    assert tokenizer.decode(recorded["completion_ids"]) == CORRECTION + parts["end"]
    spelt = tokenizer.decode(recorded["prompt_ids"]).replace(" ", "")
    begin = tokenizer.bos_token if tokenizer.bos_token and preset != "chat" else ""
    whole = parts["before"] + QUESTION + parts["between"] + ANSWER + parts["after"]
    assert spelt == begin + whole.replace(" ", "")


def test_chat_parts_of_the_chatml_template() -> None:
    parts = json.loads(FILE.read_text(encoding="utf-8"))["chatml"]["chat"]["parts"]
    assert parts == {
        "name": "chat",
        "before": "<|im_start|>system\nYou correct answers. Read the question and the answer given to it, then write "
        "the corrected answer: more helpful, harmless and honest, with as few changes as possible. If the answer is "
        "already good, repeat it unchanged.<|im_end|>\n<|im_start|>user\n",
        "between": "<|im_end|>\n<|im_start|>assistant\n",
        "after": "<|im_end|>\n<|im_start|>user\nCorrect the answer above.<|im_end|>\n<|im_start|>assistant\n",
        "end": "<|im_end|>",
    }


def _dump() -> str:
    found = {kind: {preset: snapshot(build(), preset) for preset in PRESETS} for kind, build in BUILDERS.items()}
    lines = [
        f'"{kind}": {{\n' + ",\n".join(f'"{p}": {_entry(row)}' for p, row in presets.items()) + "\n}"
        for kind, presets in found.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _entry(row: dict[str, Any]) -> str:
    """One line per key, so that a change shows as a small diff."""
    return "{\n" + ",\n".join(f'  "{k}": {json.dumps(v, ensure_ascii=False)}' for k, v in row.items()) + "\n}"


if __name__ == "__main__":
    FILE.write_text(_dump(), encoding="utf-8")
