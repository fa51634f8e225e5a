import argparse
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines import pretrain
from pipelines.dsl import SettingsError, main, settings
from pipelines.reca import reca as reca_pipeline
from pipelines.recipes import RECIPES, check
from pipelines.released_recipes import RELEASED, showo_256, showo_512
from reca.config import ExecutionConfig, RecaRecipe
from reca.models import FAMILIES
from reca.models.showo.config import SHOWO_256, SHOWO_512, ShowoConfig
from reca.models.showo.model import ShowoModel
from reca.training.job import check_config

ROOT = Path(__file__).resolve().parents[2]


def reca(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "pipelines/reca.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_claim_and_a_valid_configuration(name: str) -> None:
    recipe = RECIPES[name]()
    assert recipe.name == name
    check_config(recipe.training)
    text = RECIPES[name].__doc__ or ""
    assert all(word in text for word in ("Command:", "Hardware:", "Cost"))


@pytest.mark.parametrize("recipe", [showo_256(), showo_512()])
def test_released_recipes_have_the_authors_hyper_parameters(recipe: RecaRecipe) -> None:
    training = recipe.training
    assert (training.learning_rate, training.warmup_updates, training.schedule) == (5e-7, 1000, "cosine")
    assert (training.betas, training.eps, training.weight_decay) == ((0.9, 0.999), 1e-8, 0.01)
    assert (training.grad_clip, training.seed) == (0.0, 10086)
    assert (training.lambda_recon, training.lambda_i2t, training.lambda_t2i) == (1.0, 1.0, 0.0)
    assert (recipe.evaluation.sampling.guidance, recipe.evaluation.sampling.steps) == (5.0, 50)


@pytest.mark.parametrize("recipe", [make() for make in RELEASED], ids=lambda recipe: recipe.name)
def test_only_shared_transformers_train_on_image_to_text(recipe: RecaRecipe) -> None:
    assert recipe.model.family in FAMILIES
    decoupled = recipe.model.family in ("openuni", "bagel")
    assert (recipe.training.lambda_i2t == 0) == decoupled
    assert recipe.training.lambda_t2i == 0


@pytest.mark.parametrize(("config", "codes"), [(SHOWO_256, 256), (SHOWO_512, 1024)])
def test_released_sizes_build_on_the_meta_device(config: ShowoConfig, codes: int) -> None:
    with torch.device("meta"):
        model = ShowoModel(config)
    language = sum(parameter.numel() for parameter in model.showo.parameters())
    projector = sum(parameter.numel() for parameter in model.mm_projector.parameters())
    assert (language, projector) == (1_448_176_770, 6_295_552)
    assert config.image_tokens == codes


def test_plan_names_the_nearest_key_and_the_wanted_type() -> None:
    unknown = reca("plan", "--set", "training.learning_rte=1")
    assert unknown.returncode == 2
    assert "learning_rate" in unknown.stderr
    wrong = reca("plan", "--set", "training.updates=many")
    assert wrong.returncode == 2
    assert "int" in wrong.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["training.updates=-5"], "training.updates is -5; it must lie in [1, inf)"),
        (["training.learning_rate=0"], "training.learning_rate is 0.0; it must lie in (0, inf)"),
        (["training.ema_decay=1"], "training.ema_decay is 1.0; it must lie in [0, 1)"),
        (["data.max_quarantined=5"], "data.max_quarantined is 5.0; it must lie in [0, 1]"),
        (["evaluation.sampling.steps=0", "gates.colors=-1"], "evaluation.sampling.steps is 0; it must lie in [1, inf)"),
        (["training.lambda_recon=0", "training.lambda_i2t=0"], "every lambda is 0"),
        (["data.source="], "data.source is empty; give the path or URL of a folder"),
        (["data.instruction_source="], "data.instruction_source is empty"),
        (["data.images=0"], "twemoji needs a number of at least 1"),
        (["training.batch_size=63"], "training.batch_size 63 cannot be split evenly over 2 workers; choose a multiple"),
        (["workers=3"], "--set workers=3: workers says how a job runs; write --context workers=VALUE"),
        (["execution.workers=3"], "write --context workers=VALUE"),
    ],
)
def test_what_could_only_fail_hours_later_is_refused_by_plan_and_run(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("plan", "run"):
        argv = [verb, "--store", str(tmp_path / "store"), *(f"--set={word}" for word in words)]
        assert main(reca_pipeline, RECIPES, "tiny_showo", argv, ExecutionConfig(), check) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_each_set_of_pictures_is_keyed_by_its_own_settings_and_content(tmp_path: Path) -> None:
    """Encoding is what costs: changing one set, or moving a folder, must not encode the other set again."""
    for name in ("here", "moved", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"another" if name == "other" else b"picture")

    def changed(**data: object) -> set[str]:
        start = RECIPES["smoke"]()
        before, after = (
            {node.name: node.key for node in reca_pipeline.build(replace(start, data=config)).nodes}
            for config in (replace(start.data, source=str(tmp_path / "here")), replace(start.data, **data))
        )
        return {name for name, key in before.items() if after[name] != key}

    here, moved, other = (str(tmp_path / name) for name in ("here", "moved", "other"))
    assert changed(source=moved) == set()
    assert "prepare images" in changed(source=other)
    assert not {"prepare instructions", "encode instructions"} & changed(source=other)
    assert "prepare instructions" in changed(source=here, instructions=64)
    assert not {"prepare images", "encode images"} & changed(source=here, instructions=64)


@pytest.mark.parametrize("workers", [0, -1])
def test_a_context_that_cannot_work_is_refused(workers: int) -> None:
    with pytest.raises(SettingsError, match=rf"--context workers is {workers}; it must lie in \[1, inf\)"):
        check(RECIPES["smoke"](), ExecutionConfig(workers=workers))


def test_released_recipes_ask_for_pictures() -> None:
    with pytest.raises(SettingsError, match=r"data\.source is empty.*data\.instruction_source is empty"):
        check(showo_256(), ExecutionConfig())


def test_a_missing_source_or_checkpoint_is_named(tmp_path: Path) -> None:
    done = reca("plan", "--set", f"data.source={tmp_path / 'none'}", "--store", str(tmp_path / "store"))
    assert done.returncode != 0
    assert str(tmp_path / "none") in done.stderr
    done = reca("plan", "--set", "model.checkpoint=nowhere", "--store", str(tmp_path / "store"))
    assert done.returncode != 0
    assert "nowhere" in done.stderr


def test_plan_of_the_default_recipe_loads_neither_ray_nor_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['reca.py', 'plan', '--store', sys.argv[1]]\n"
        "import runpy\n"
        "try:\n    runpy.run_path('pipelines/reca.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "assert not {'ray', 'torch'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "10 of 10 stages would run" in done.stdout


def test_the_pretraining_graph_has_its_gates() -> None:
    graph = pretrain.pretrain.build(replace(pretrain.smoke(), name="other"))
    assert [node.name for node in graph.nodes] == ["tokenizer", "base", "evaluate", "gate", "publish"]


def documented_calls() -> list[list[str]]:
    """The words behind `pipelines/reca.py` or `tuning/sweep.py` in the documents and in the recipes' docstrings, lines
    that go on with a flag joined; texts cut short by `...` are no calls.
    """
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    texts += [make.__doc__ or "" for make in RECIPES.values()]
    joined = re.sub(r" ?\\?\n +(?=--)", " ", "\n".join(texts))
    found = re.findall(r"(?:pipelines/reca|tuning/sweep)\.py((?: [^\s`#]+)*)", joined)
    return [call.split() for call in sorted(set(found)) if "..." not in call]


def test_calls_in_the_documents_pass_the_check() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*")
    for name in ("--store", "--trials", "--checkpoint"):
        parser.add_argument(name)
    parser.add_argument("--recipe", default="tiny_showo")
    for name in ("--set", "--context"):
        parser.add_argument(name, action="append", default=[])
    calls = documented_calls()
    assert len(calls) >= 20
    for words in calls:
        call = parser.parse_args(words)
        if call.recipe in ("FILE", "my.toml"):
            continue
        recipe, _ = settings.apply(settings.load_recipe(call.recipe, RECIPES, "tiny_showo"), call.set, "--set", "")
        execution, _ = settings.apply(ExecutionConfig(), call.context, "--context", "")
        check(recipe, execution)


@pytest.mark.parametrize("name", pretrain.RECIPES)
def test_pretraining_recipes_are_in_range(name: str) -> None:
    pretrain.check(pretrain.RECIPES[name](), ExecutionConfig())


@pytest.mark.parametrize(
    ("part", "change", "told"),
    [
        ("base", {"updates": -3}, r"base\.updates is -3; it must lie in \[1, inf\)"),
        ("base", {"spelled": 49}, r"base\.spelled is 49; it must not exceed base\.batch_size"),
        ("tokenizer", {"kl": -1.0}, r"tokenizer\.kl is -1\.0; it must lie in \[0, inf\)"),
        ("evaluation", {"prompts_per_task": 0}, r"evaluation\.prompts_per_task is 0"),
    ],
)
def test_numbers_that_no_pretraining_has_are_refused(part: str, change: dict[str, float], told: str) -> None:
    recipe = pretrain.tiny_showo()
    recipe = replace(recipe, **{part: replace(getattr(recipe, part), **change)})
    with pytest.raises(SettingsError, match=told):
        pretrain.check(recipe, ExecutionConfig())
