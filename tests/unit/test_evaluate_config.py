"""The configuration of an evaluation: what it refuses, and in which words."""

from __future__ import annotations

import pytest

from aligner.errors import ConfigError
from aligner.evaluate.config import EvalConfig, TaskSpec
from aligner.evaluate.formats import FORMATS
from aligner.types import Sampling

BASE = {
    "out": "run",
    "tasks": [{"name": "t", "file": "t.jsonl", "dimensions": ["helpful"]}],
    "upstreams": [{"name": "u", "answers": "u.jsonl"}],
    "correctors": [{"name": "c", "corrections": "c.jsonl"}],
}


def test_yaml_and_back(tmp_path) -> None:
    config = EvalConfig.from_dict(
        BASE | {"judge": {"call": "a.b:c", "arguments": {"x": [1]}}, "sampling": {"top_k": 3}}
    )
    config.save(tmp_path / "c.yaml")
    assert EvalConfig.from_yaml(tmp_path / "c.yaml") == config
    assert config.sampling.to_sampling() == Sampling(top_k=3)
    assert config.sampling.to_sampling().greedy


def test_an_upstream_behind_an_address_and_batches(tmp_path) -> None:
    served = {"name": "u", "url": "http://x/v1", "served_model": "m", "api_key_env": "K", "concurrency": 3,
              "timeout": 5.0, "fields": {"user": None}}  # fmt: skip
    config = EvalConfig.from_dict(BASE | {"upstreams": [served], "responses": "r", "batch_out": "b", "batch_in": ["a"]})
    config.save(tmp_path / "c.yaml")
    again = EvalConfig.from_yaml(tmp_path / "c.yaml")
    assert again.upstreams == config.upstreams
    assert (again.batch_out, again.batch_in) == (None, ()), "a run is the same whether it is judged in batches or not"
    assert str(again.responses) == "r"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"upstreams": [{"name": "u", "answers": "x", "model": "y"}]}, "give either 'model'"),
        (
            {"upstreams": [{"name": "u", "url": "http://x/v1", "served_model": "m", "model": "y"}]},
            "give either 'model'",
        ),
        ({"upstreams": [{"name": "u", "url": "http://x/v1"}]}, "'served_model' (the model's name there) are given"),
        ({"upstreams": [{"name": "u", "served_model": "m"}]}, "are given together"),
        ({"upstreams": [{"name": "u", "model": "m", "api_key_env": "K"}]}, "'api_key_env' goes with 'url'"),
        ({"upstreams": [{"name": "u", "model": "m", "timeout": 3}]}, "'timeout' goes with 'url'"),
        ({"upstreams": [{"name": "u", "url": "http://x", "served_model": "m", "concurrency": 0}]}, "concurrency'"),
        ({"upstreams": [{"name": "u", "url": "http://x", "served_model": "m", "timeout": 0}]}, "timeout'"),
        ({"correctors": [{"name": "c"}]}, "give either 'aligner'"),
        ({"correctors": [{"name": "c", "aligner": "x", "corrections": "y"}]}, "give either 'aligner'"),
        ({"correctors": [{"name": "c", "aligner": "x", "method": "cai"}]}, "no two of them"),
        ({"correctors": [{"name": "c", "corrections": "y", "unit": "sentence"}]}, "'unit' goes with 'aligner'"),
        (
            {"correctors": [{"name": "c", "aligner": "x", "unit": "sentence", "gate": "strict"}]},
            "the gate decides on whole answers",
        ),
        ({"correctors": [{"name": "c", "aligner": "x", "unit": "word"}]}, "'correctors.0.unit'"),
        ({"tasks": []}, "'tasks'"),
        ({"tasks": [{"name": "t", "file": "f", "dimensions": []}]}, "'tasks.0.dimensions'"),
        ({"tasks": [{"name": "t", "file": "f", "dimensions": ["a", "a"]}]}, "no two the same"),
        ({"tasks": [{"name": "t", "fil": "f", "dimensions": ["a"]}]}, "'tasks.0.fil'; did you mean 'file'?"),
        ({"tasks": [{"name": "t", "file": "f"}]}, "the setting 'tasks.0.dimensions' is missing"),
        ({"tasks": [{"name": "t", "format": "xstest"}]}, "give either 'file'"),
        ({"tasks": [{"name": "t", "format": "xstest", "file": "f", "hub": "h"}]}, "give either 'file'"),
        ({"tasks": [{"name": "t", "format": "xstest", "file": "f", "revision": "h"}]}, "'revision' belong to 'hub'"),
        (
            {"tasks": [{"name": "t", "format": "xstest", "hub": "h", "hub_file": "f", "hub_split": "s"}]},
            "'hub_file' names one file",
        ),
        ({"tasks": [{"name": "t", "format": "xtest", "file": "f", "dimensions": ["a"]}]}, "'tasks.0.format'"),
        ({"tasks": [{"name": "t", "format": ["xstest"], "file": "f", "dimensions": ["a"]}]}, "'tasks.0.format'"),
        ({"tasks": [{"name": "t", "format": "xstest", "file": "f", "prompt": "Say"}]}, "'prompt' has no {question}"),
        ({"upstreams": [{"name": "../u", "model": "x"}]}, "'upstreams.0.name': a name has letters"),
        ({"upstreams": [{"name": "All", "model": "x"}]}, "stands for an average"),
        (
            {"upstreams": [{"name": "u", "model": "x"}, {"name": "U", "model": "y"}]},
            "two of 'upstreams' are called 'U'",
        ),
        ({"sampling": {"temperature": -1}}, "'sampling.temperature'"),
        ({"confidence": 1.0}, "'confidence'"),
        ({"resample": 5}, "unknown setting 'resample'; did you mean 'resamples'?"),
    ],
)
def test_refusals(change, message) -> None:
    with pytest.raises(ConfigError) as e:
        EvalConfig.from_dict(BASE | change)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_a_format_fills_in_what_is_left_out() -> None:
    plain = TaskSpec.from_dict({"name": "t", "format": "dialogsum", "file": "f"})
    assert plain.dimensions == ("summary",)
    assert plain.prompt == FORMATS["dialogsum"].prompt
    own = TaskSpec.from_dict(
        {"name": "t", "format": "dialogsum", "file": "f", "dimensions": ["x"], "prompt": "{question}"}
    )
    assert (own.dimensions, own.prompt) == (("x",), "{question}")
    assert TaskSpec.from_dict(plain.model_dump(mode="json")) == plain
