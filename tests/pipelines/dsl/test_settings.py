from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from pipelines.dsl import SettingsError
from pipelines.dsl.settings import apply, leaves, load_recipe


@dataclass(frozen=True)
class Training:
    updates: int = 1000
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    arm: Literal["reca", "sft"] = "reca"
    resume: str | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.updates < 1:
            raise ValueError(f"updates must be at least 1, not {self.updates}")


@dataclass(frozen=True)
class Recipe:
    name: str = "x"
    training: Training = field(default_factory=Training)
    tags: tuple[str, ...] = ()


def changed(*assignments: str) -> Recipe:
    return apply(Recipe(), assignments, "--set", "recipe x")[0]


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("training.updates=40", "training.updates", 40),
        ("training.rate=3e-4", "training.rate", 3e-4),
        ("training.rate=1", "training.rate", 1.0),
        ("training.betas=0.8,0.9", "training.betas", (0.8, 0.9)),
        ("training.betas=[0.8, 0.9]", "training.betas", (0.8, 0.9)),
        ("training.arm=sft", "training.arm", "sft"),
        ("training.resume=a=b", "training.resume", "a=b"),
        ("training.resume=null", "training.resume", None),
        ("training.verbose=true", "training.verbose", True),
        ("name=5", "name", "5"),
        ('tags=["a","b"]', "tags", ("a", "b")),
    ],
)
def test_texts_are_read_as_the_type_of_the_field(assignment: str, path: str, value: object) -> None:
    found: object = changed(assignment)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_origins_name_what_the_recipe_said() -> None:
    _, origins = apply(Recipe(), ["training.updates=40", "training.updates=50"], "--set", "recipe smoke")
    assert [(o.path, o.value, o.source) for o in origins] == [
        ("training.updates", 50, "--set; recipe smoke says 1000"),
    ]


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("training.updatse=40", r"no field 'training\.updatse'; did you mean 'training\.updates'\?"),
        ("trainning.updates=40", r"did you mean 'training\.updates'\?"),
        ("updates=40", r"did you mean 'training\.updates'\?"),
        ("zzz=1", "fields are name, training, tags"),
        ("training.updates=many", "training.updates wants int, and 'many' is none"),
        ("training.updates=1.5", "training.updates wants int"),
        ("training.arm=rl", "training.arm wants one of reca, sft"),
        ("training.betas=1", "training.betas wants tuple"),
        ("training=3", r"is a group of values; set one of training\.updates, training\.rate"),
        ("name.first=a", "name is a single value"),
        ("training.updates", "write it as field=value"),
        ("training.updates=0", "updates must be at least 1, not 0"),
    ],
)
def test_wrong_assignments_say_the_mend(assignment: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        changed(assignment)


def test_an_int_in_a_float_field_is_brought_to_its_type() -> None:
    recipe = load_recipe("odd", {"odd": lambda: Recipe(training=Training(rate=1))}, "odd")
    assert type(recipe.training.rate) is float


@pytest.mark.parametrize(
    ("name", "text"),
    [("r.json", '{"name": "mine", "training": {"rate": 2}}'), ("r.toml", 'name = "mine"\n[training]\nrate = 2\n')],
)
def test_recipes_from_files(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert load_recipe(str(file), {"a": Recipe}, "a") == Recipe(name="mine", training=Training(rate=2.0))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("r.json", '{"trainig": {}}', "did you mean 'training'"),
        ("r.json", '{"training": {"rat": 1}}', r"no field 'training\.rat'; did you mean 'training\.rate'"),
        ("r.json", '{"training": {"rate": "fast"}}', r"does not fit Recipe: Expected `float`.*training\.rate"),
        ("r.json", '{"training": 3}', "training must hold named values, not 3"),
        ("r.json", "{", "is no valid JSON"),
        ("r.toml", "a = [", "is no valid TOML"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, name: str, text: str, says: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(SettingsError, match=says):
        load_recipe(str(file), {"a": Recipe}, "a")


def test_unknown_recipes() -> None:
    with pytest.raises(SettingsError, match="no recipe 'smok'; did you mean 'smoke'"):
        load_recipe("smok", {"smoke": Recipe, "tiny": Recipe}, "tiny")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_recipe("nowhere.json", {"smoke": Recipe}, "smoke")


def test_leaves_are_dotted() -> None:
    assert leaves(Recipe)[:3] == ["name", "training.updates", "training.rate"]
