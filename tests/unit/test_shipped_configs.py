"""Every configuration that is shipped parses, strictly: an unknown or misspelled setting would fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligner.config import Config
from aligner.evaluate.config import EvalConfig
from aligner.pocket.suite import SuiteConfig
from aligner.recipes.suite_models import settings
from aligner.train.config import SftConfig, TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS: dict[str, type[Config]] = {
    "quickstart": TrainConfig,
    "real-small": TrainConfig,
    "pocket/suite": SuiteConfig,
    "pocket/base-S": SftConfig,
    "pocket/base-M": SftConfig,
    "pocket/base-L": SftConfig,
    "pocket/upstream": SftConfig,
    "pocket/corrector": TrainConfig,
    "pocket/eval": EvalConfig,
}


def test_the_list_is_whole() -> None:
    files = [*CONFIGS.glob("*.yaml"), *(CONFIGS / "pocket").glob("*.yaml")]
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
