from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import evaluate, recipes
from pipelines.dsl import External, SettingsError, main
from pipelines.dsl.canonical import key_of
from pipelines.reca import reca
from pipelines.stages import checkpoint_at
from reca.config import ExecutionConfig, ModelConfig
from reca.evaluation.run_config import JudgingExecution
from reca.models.sources import HubSnapshot

FIRST, SECOND = "a" * 40, "b" * 40
SETTING = "model.checkpoint"


def test_an_unknown_family_is_one_line_that_names_the_families() -> None:
    message = r"^model\.family='bagle' is unknown; nearest: 'bagel' \(of showo, harmon, janus, openuni, bagel\)$"
    wrong = ModelConfig(family="bagle", checkpoint="checkpoints/tiny_showo")
    with pytest.raises(SettingsError, match=message):
        recipes.check(replace(recipes.tiny_showo(), model=wrong), ExecutionConfig())
    with pytest.raises(SettingsError, match=message):
        evaluate.check(replace(evaluate.RECIPES["published"](), model=wrong), JudgingExecution())


def test_a_hub_checkpoint_is_keyed_by_its_commit() -> None:
    pinned = checkpoint_at(f"org/name@{FIRST}", SETTING)
    assert pinned == checkpoint_at(f"hf://org/name@{FIRST}", SETTING) == HubSnapshot("org/name", FIRST)
    assert key_of(pinned, "source") == key_of(HubSnapshot("org/name", FIRST), "source")
    others = (HubSnapshot("org/name", SECOND), HubSnapshot("org/other", FIRST))
    assert len({key_of(each, "source") for each in (pinned, *others)}) == 3


def test_folders_and_urls_are_keyed_by_their_content(tmp_path: Path) -> None:
    for place in (str(tmp_path), "s3://bucket/model"):
        found = checkpoint_at(place, SETTING)
        assert isinstance(found, External)
        assert replace(found, advice="") == External(place, advice="")


def test_a_mistyped_hub_address_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match=r"^model\.checkpoint hf://name: expected hf://ORG/NAME"):
        checkpoint_at("hf://name", SETTING)


@pytest.mark.parametrize("setting", ["model.checkpoint", "data.source", "data.instruction_source", "evaluation.scorer"])
def test_what_the_main_job_does_not_find_is_named_with_its_setting(
    setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "--recipe", "smoke", "--store", str(tmp_path / "store"), "--set", f"{setting}={tmp_path}/none"]
    assert main(reca, recipes.RECIPES, "smoke", words, ExecutionConfig(), recipes.check) == 1
    place = f"{tmp_path}/none"
    said = f"error: the input {place} is missing or empty (looked at {place}); check {setting}, or the credentials\n"
    assert capsys.readouterr().err == said
