"""Every configuration that is shipped parses, strictly: an unknown or misspelled setting would fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligner.config import Config
from aligner.evaluate.config import EvalConfig
from aligner.evaluate.formats import FORMATS
from aligner.evaluate.tasks import read_task
from aligner.pocket.model_triplets import ModelTripletsConfig
from aligner.pocket.suite import SuiteConfig
from aligner.recipes.suite_models import settings
from aligner.train.config import SftConfig, TrainConfig
from tests.real import REAL_DATA, needs_real_data

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS: dict[str, type[Config]] = {
    "quickstart": TrainConfig,
    "real-small": TrainConfig,
    "pocket/suite": SuiteConfig,
    "pocket/base-S": SftConfig,
    "pocket/base-M": SftConfig,
    "pocket/base-L": SftConfig,
    "pocket/upstream": SftConfig,
    "pocket/model-triplets": ModelTripletsConfig,
    "pocket/corrector": TrainConfig,
    "pocket/eval": EvalConfig,
    **{f"eval/{name}": EvalConfig for name in ("paper-five", *FORMATS)},
}


def test_the_list_is_whole() -> None:
    files = [*CONFIGS.glob("*.yaml"), *(CONFIGS / "pocket").glob("*.yaml"), *(CONFIGS / "eval").glob("*.yaml")]
    assert {str(f.relative_to(CONFIGS).with_suffix("")) for f in files} == KINDS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_it_parses_and_comes_back_the_same(name, tmp_path) -> None:
    config = KINDS[name].from_yaml(CONFIGS / f"{name}.yaml")
    again = KINDS[name].from_dict(config.model_dump(mode="json"), where=name)
    assert again == config


def test_recipes_read_the_same_files() -> None:
    assert KINDS["pocket/eval"].from_dict(settings("eval"), where="eval") == EvalConfig.from_yaml(
        CONFIGS / "pocket" / "eval.yaml"
    )


@needs_real_data
def test_published_sets_are_found_where_their_configurations_say(monkeypatch) -> None:
    monkeypatch.setenv("ALIGNER_REAL_DATA", str(REAL_DATA))
    met = {}
    for path in (CONFIGS / "eval").glob("*.yaml"):
        for spec in EvalConfig.from_yaml(path).tasks:
            task = read_task(spec, seed=42)
            assert len(task.items) == (spec.sample or task.total)
            met[spec.format] = task.dimensions
    assert met == {name: form.dimensions for name, form in FORMATS.items()}
