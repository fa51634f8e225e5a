from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import evaluate, recipes
from pipelines.dsl import External, SettingsError
from pipelines.dsl.canonical import key_of
from pipelines.stages import checkpoint_at
from reca.config import ExecutionConfig, ModelConfig
from reca.evaluation.run_config import JudgingExecution
from reca.models.sources import HubSnapshot

FIRST, SECOND = "a" * 40, "b" * 40


def test_an_unknown_family_is_one_line_that_names_the_families() -> None:
    message = r"^model\.family='bagle' is unknown; nearest: 'bagel' \(of showo, harmon, janus, openuni, bagel\)$"
    wrong = ModelConfig(family="bagle", checkpoint="checkpoints/tiny_showo")
    with pytest.raises(SettingsError, match=message):
        recipes.check(replace(recipes.tiny_showo(), model=wrong), ExecutionConfig())
    with pytest.raises(SettingsError, match=message):
        evaluate.check(replace(evaluate.RECIPES["published"](), model=wrong), JudgingExecution())


def test_a_hub_checkpoint_is_keyed_by_its_commit() -> None:
    pinned = checkpoint_at(f"org/name@{FIRST}")
    assert pinned == checkpoint_at(f"hf://org/name@{FIRST}") == HubSnapshot("org/name", FIRST)
    assert key_of(pinned, "source") == key_of(HubSnapshot("org/name", FIRST), "source")
    others = (HubSnapshot("org/name", SECOND), HubSnapshot("org/other", FIRST))
    assert len({key_of(each, "source") for each in (pinned, *others)}) == 3


def test_folders_and_urls_are_keyed_by_their_content(tmp_path: Path) -> None:
    assert checkpoint_at(str(tmp_path)) == External(str(tmp_path))
    assert checkpoint_at("s3://bucket/model") == External("s3://bucket/model")


def test_a_mistyped_hub_address_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="checkpoint hf://name: expected hf://ORG/NAME"):
        checkpoint_at("hf://name")
