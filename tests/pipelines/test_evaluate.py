"""The evaluation pipeline: its command line, whole runs of every kind in this process, and one through Ray."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bagel_tiny
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from in_process import run, stay_here
from loopback_judge import LoopbackJudge, loopback_judge
from PIL import Image
from tiny_judges import save_clip, save_detector, save_names, save_vlm

from pipelines import benchmark_stages
from pipelines.benchmark_choices import BENCHMARKS
from pipelines.benchmark_stages import TOTALS
from pipelines.dsl import SettingsError, main
from pipelines.evaluate import RECIPES, evaluate, labels_of, published, set_words, short_flags
from pipelines.stages import load_artifact
from reca.config import ModelConfig, SamplingConfig
from reca.data.scenes import CLASSES
from reca.evaluation import generation
from reca.evaluation.minigeneval.prompts import prompts
from reca.evaluation.mmmu import ASK_LETTER
from reca.evaluation.run_config import (
    BenchmarkRecipe,
    DPGBenchConfig,
    DrawingConfig,
    GEditConfig,
    GenEvalConfig,
    GQAConfig,
    ImgEditConfig,
    JudgeConfig,
    JudgingExecution,
    MMEConfig,
    MMMUConfig,
    POPEConfig,
    WISEConfig,
)

ROOT = Path(__file__).resolve().parents[2]
CHINESE = "把猫变成红色"
DRAWING = DrawingConfig(batch_size=8, sampling=SamplingConfig(guidance=0.0, steps=2))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompt files, questions and tiny judges, made once."""
    folder = tmp_path_factory.mktemp("places")
    save_detector(folder / "detector", len(CLASSES))
    save_clip(folder / "clip")
    save_vlm(folder / "vlm")
    save_names(folder / "names.txt", CLASSES)
    (folder / "prompts.jsonl").write_bytes(msgspec.json.Encoder().encode_lines(prompts("test", 1)))
    heading = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    end = "entity,whole,entity - whole (cat),is there a cat ?"
    rows = [f"{item},a cat,,{n},{n - 1},{end}" for item in "ab" for n in (1, 2)]
    (folder / "dpg.csv").write_text("\n".join([f"{heading}question_natural_language", *rows]) + "\n")
    (folder / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 30), "red").save(folder / "photos" / name)
    for group in ("random", "popular", "adversarial"):
        lines = [
            json.dumps({"question_id": n, "image": f"{image}.png", "text": "what is there", "label": "yes"})
            for n, image in enumerate("ab")
        ]
        (folder / f"coco_pope_{group}.json").write_text("\n".join(lines))
    asked = {"imageId": "a", "question": "what is there", "answer": "cat", "types": {"structural": "query"}}
    (folder / "gqa.json").write_text(json.dumps({"1": asked}))
    Image.new("RGB", (20, 30), "red").save(folder / "photos/a.jpg")
    (folder / "mme/count").mkdir(parents=True)
    (folder / "mme/count/1.txt").write_text("is there a cat ?\tYes\nis there a dog ?\tNo\n")
    Image.new("RGB", (20, 30), "blue").save(folder / "mme/count/1.png")
    (folder / "mmmu/Art").mkdir(parents=True)
    asked = {"id": "validation_Art_1", "question": "what is there", "options": "['cat', 'dog']", "answer": "A"}
    picture = {"bytes": (folder / "photos/a.png").read_bytes(), "path": "a.png"}
    table = pa.Table.from_pylist([{**asked, "question_type": "multiple-choice", "image_1": picture}])
    pq.write_table(table, folder / "mmmu/Art/validation-00000-of-00001.parquet")
    return folder


@pytest.fixture
def recipe(places: Path, smallest_base: Path) -> BenchmarkRecipe:
    return BenchmarkRecipe(
        name="tiny",
        model=ModelConfig("showo", str(smallest_base)),
        bootstrap=20,
        geneval=GenEvalConfig(
            prompts=str(places / "prompts.jsonl"),
            detector=str(places / "detector"),
            clip=str(places / "clip"),
            object_names=str(places / "names.txt"),
            detector_scale=(96, 64),
            samples=2,
            drawing=DRAWING,
        ),
        dpgbench=DPGBenchConfig(questions=str(places / "dpg.csv"), vlm=str(places / "vlm"), samples=1, drawing=DRAWING),
        pope=POPEConfig(questions=str(places), images=str(places / "photos")),
        mme=MMEConfig(folder=str(places / "mme")),
        gqa=GQAConfig(str(places / "gqa.json"), str(places / "photos")),
        mmmu=MMMUConfig(str(places / "mmmu")),
    )


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    stay_here(monkeypatch, generation)


def test_a_model_is_scored_on_drawn_and_on_asked_benchmarks(recipe: BenchmarkRecipe, tmp_path: Path) -> None:
    found = run(replace(recipe, benchmarks="geneval, dpgbench,pope,mme,gqa"), tmp_path)
    sides = {name: next(iter(section["sides"].values())) for name, section in found["benchmarks"].items()}
    assert list(sides) == ["geneval", "dpgbench", "pope", "mme", "gqa"]
    geneval = sides["geneval"]
    assert (geneval["pictures"], geneval["items"], geneval["missing"], geneval["unscored"]) == (12, 6, 0, 0)
    assert geneval["judge"] == "transformers Mask2Former detector and CLIP clip"
    assert geneval["settings"]["steps"] == "2"
    assert geneval["settings"]["resolution"] == "16 x 16"
    assert geneval["settings"]["noise seed"] == "0"
    assert "not comparable" in geneval["notes"][0]
    assert list(geneval["strict"]["correct"])[1:] == list(geneval["official"]["correct"])[1:]
    assert sides["dpgbench"]["title"] == "DPG with judge vlm, 2 of 1,065 items"
    assert sides["dpgbench"]["score"] in (0.0, 25.0, 50.0, 75.0, 100.0)
    assert sides["pope"]["pictures"] == 6
    assert sides["mme"]["official_score"] is None
    assert sides["gqa"]["title"].startswith("GQA, testdev-balanced, 1 of 12,578 items")
    page = (found["folder"] / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 8
    assert "<script" not in page
    assert page.count("http") == page.count("http-equiv")


def test_pictures_that_the_model_refuses_are_missing_and_the_report_says_why(
    recipe: BenchmarkRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = [prompt.prompt for prompt in prompts("test", 1)]
    word = next(word for word in first.split() if not any(word in other for other in others))

    def load(model: Any) -> Any:
        loaded: Any = load_artifact(model)
        (number,) = loaded.collator.tokenizer(word, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            loaded.showo.model.embed_tokens.weight[number] = torch.nan
        return loaded

    monkeypatch.setattr(benchmark_stages, "load_artifact", load)
    found = run(replace(recipe, benchmarks="geneval"), tmp_path)
    (side,) = found["benchmarks"]["geneval"]["sides"].values()
    assert (side["pictures"], side["items"], side["missing"], side["unscored"]) == (10, 5, 2, 0)
    assert side["score"] is None  # a task without a picture
    reason = "2, such as 00000/samples/0000.png: showo: NaN or infinity in the logits of the codes"
    assert side["settings"]["missing because the model refused them"] == reason
    assert "2 expected pictures have no record, such as 00000/samples/0000.png" in side["notes"]
    assert reason in (found["folder"] / "report.html").read_text()
    assert reason in (found["folder"] / "tables.md").read_text()


def test_a_model_is_asked_questions_whose_pictures_lie_in_parquet_files(
    recipe: BenchmarkRecipe, save_smallest: Callable[[Sequence[str]], Path], tmp_path: Path
) -> None:
    words = re.findall(r"\w+|[^\w\s]", f"( A ) ( B ) cat dog {ASK_LETTER}")
    model = ModelConfig("showo", str(save_smallest(sorted(set(words)))))
    found = run(replace(recipe, benchmarks="mmmu", model=model), tmp_path)
    (side,) = found["benchmarks"]["mmmu"]["sides"].values()
    assert side["title"].startswith("MMMU, validation, 1 of 900 items")
    assert (side["pictures"], side["missing"]) == (1, 0)
    assert side["official_score"] in (0.0, 0.5, 1.0)


def test_folders_of_pictures_are_compared_pair_by_pair(recipe: BenchmarkRecipe, tmp_path: Path) -> None:
    first = run(recipe, tmp_path / "model")
    drawn = Path(first["made"][next(name for name in first["made"] if name.startswith("draw"))].uri)
    other = tmp_path / "other"
    for path in drawn.rglob("*.png"):
        copy = other / path.relative_to(drawn)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (other / "00000/samples/0001.png").unlink()
    Image.new("RGB", (8, 8)).save(other / "extra.png")
    found = run(replace(recipe, images=str(drawn), compare=str(other)), tmp_path / "compared")
    section = found["benchmarks"]["geneval"]
    before, after = section["sides"].values()
    assert (before["missing"], after["missing"], after["complete"]) == (0, 1, False)
    assert after["title"].endswith("incomplete")
    assert after["settings"]["pictures of no item"] == "1, such as extra.png"
    assert section["differences"]["pictures"] == 11
    assert section["differences"]["tables"]["correct"]["overall"]["value"] == 0.0
    tables = (found["folder"] / "tables.md").read_text()
    assert f"differences are other minus {drawn.name}, over 11 pictures" in tables
    assert before["strict"] == first["benchmarks"]["geneval"]["sides"][recipe.model.checkpoint.split("/")[-1]]["strict"]


def test_a_folder_without_the_pictures_is_refused(recipe: BenchmarkRecipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds none of the 12 expected pictures, such as 00000/samples/0000\.png"):
        run(replace(recipe, images=recipe.model.checkpoint), tmp_path)


def test_a_judge_behind_an_endpoint_is_asked_once(recipe: BenchmarkRecipe, places: Path, tmp_path: Path) -> None:
    prompt = {"prompt_id": 1, "Prompt": "a cat", "Explanation": "it shows a cat", "Category": "x", "Subcategory": "y"}
    (tmp_path / "wise.json").write_text(json.dumps([prompt, {**prompt, "prompt_id": 500}]))
    (tmp_path / "judge.txt").write_text("Is this <prompt>? Remember: <explanation>")

    def reply(body: dict[str, Any]) -> str:
        text = body["messages"][-1]["content"][0]["text"]
        return "Consistency: 2\nRealism: 1\nAesthetic Quality: 0" if text.startswith("Is this a cat?") else "yes"

    chosen = replace(
        recipe,
        benchmarks="wise,dpgbench",
        judge=JudgeConfig(model="loopback"),
        dpgbench=replace(recipe.dpgbench, vlm=""),
        wise=WISEConfig(str(tmp_path / "wise.json"), judge_prompt=str(tmp_path / "judge.txt"), drawing=DRAWING),
    )
    with loopback_judge(reply) as judge:
        execution = JudgingExecution(base_url=judge.url, key_variable="", replies=str(tmp_path / "replies"))
        found = run(chosen, tmp_path / "first", execution)
        asked = len(judge.asked)
        again = run(chosen, tmp_path / "second", execution)
        assert len(judge.asked) == asked == 4  # two prompts; two items whose questions are alike
        stored, store = replace(execution, replies=""), str(tmp_path / "store")
        run(chosen, tmp_path / "third", stored, store)
        assert len(judge.asked) == 2 * asked
        # A stage of its own, with the replies of the one before: they are the store's.
        run(replace(chosen, judge=JudgeConfig(model="loopback", turns=3)), tmp_path / "fourth", stored, store)
        assert len(judge.asked) == 2 * asked
    wise, dpg = (next(iter(found["benchmarks"][name]["sides"].values())) for name in ("wise", "dpgbench"))
    assert wise["judge"] == "loopback"
    assert wise["strict"]["WiScore"]["CULTURE"]["value"] == pytest.approx((0.7 * 2 + 0.2) / 2)
    assert dpg["score"] == 100.0
    assert dpg["title"] == "DPG with judge loopback, 2 of 1,065 items"
    assert found["benchmarks"] == again["benchmarks"]


def test_edited_pictures_are_judged_with_their_sources(recipe: BenchmarkRecipe, tmp_path: Path) -> None:
    edits = {"7": {"id": "in.png", "prompt": "add a hat", "edit_type": "add"}}
    (tmp_path / "edits.json").write_text(json.dumps(edits))
    names = "".join(f"{name}: A number from 1 to 5.\n" for name in ("Compliance", "Seamlessness", "Realism"))
    (tmp_path / "judge.json").write_text(json.dumps({"add": f"Rate <edit_prompt>.\n{names}"}))
    for path in ("sources/in.png", "made/7.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / path)
    config = ImgEditConfig(str(tmp_path / "edits.json"), str(tmp_path / "judge.json"), str(tmp_path / "sources"))
    chosen = replace(
        recipe, benchmarks="imgedit", images=str(tmp_path / "made"), imgedit=config, judge=JudgeConfig(model="loopback")
    )
    judge: LoopbackJudge
    with loopback_judge(lambda _: "Compliance: 5\nSeamlessness: 4\nRealism: 3") as judge:
        execution = JudgingExecution(base_url=judge.url, key_variable="")
        found = run(chosen, tmp_path / "run", execution)
    (side,) = found["benchmarks"]["imgedit"]["sides"].values()
    assert side["strict"]["score"]["add"]["value"] == 4.0
    assert side["score"] is None  # eight of the nine types have no picture
    with pytest.raises(SettingsError, match=r"imgedit edits pictures, and model\.family=showo does not; .*: bagel"):
        evaluate.build(replace(chosen, images=""))
    with pytest.raises(ValueError, match="no endpoint is named; give its address: --context base_url="):
        run(chosen, tmp_path / "nowhere")


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random tiny BAGEL, saved as published ones are."""
    folder = tmp_path_factory.mktemp("bagel")
    bagel_tiny.tiny_model(words=(*bagel_tiny.WORDS, CHINESE)).save(folder)
    return str(folder)


def gedit_records(path: Path) -> str:
    """Two edits in both languages, with their pictures, as parquet."""
    rows: list[dict[str, Any]] = []
    for number, kind in enumerate(("ps_human", "color_alter")):
        for language, words in (("en", "make it blue"), ("cn", CHINESE)):
            buffer = io.BytesIO()
            Image.new("RGB", (44, 30), (200, 90 * number, len(language))).save(buffer, format="PNG")
            row = {"key": f"k{number}", "task_type": kind, "instruction": words, "instruction_language": language}
            picture = {"bytes": buffer.getvalue(), "path": None}
            rows.append({**row, "Intersection_exist": number == 0, "input_image": None, "input_image_raw": picture})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("language", ["en", "cn"])
def test_gedit_is_drawn_judged_twice_and_reported(tmp_path: Path, editor: str, language: Any) -> None:
    records = gedit_records(tmp_path / "gedit.parquet")
    (tmp_path / "consistency.txt").write_text("Did it follow <instruction>?")
    (tmp_path / "quality.txt").write_text("Is it well made?")
    chosen = BenchmarkRecipe(
        name="tiny",
        benchmarks="gedit",
        model=ModelConfig("bagel", editor),
        bootstrap=20,
        judge=JudgeConfig(model="loopback"),
        gedit=GEditConfig(records, language, str(tmp_path), drawing=replace(DRAWING, batch_size=1)),
    )

    def reply(body: dict[str, Any]) -> str:
        text, *pictures = body["messages"][-1]["content"]
        assert len(pictures) == (2 if "follow" in text["text"] else 1)
        return json.dumps({"score": [8, 4] if len(pictures) == 2 else [9, 10], "reasoning": "r"})

    with loopback_judge(reply) as judge:
        execution = JudgingExecution(base_url=judge.url, key_variable="")
        found = run(chosen, tmp_path / "run", execution)
        assert len(judge.asked) == 4
        sizes = [
            Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].split(",")[1]))).size
            for body in judge.asked
            for picture in body["messages"][-1]["content"][1:]
        ]
    assert sizes == [(44, 30)] * 6  # as published, edited pictures are judged at their source's size
    (side,) = found["benchmarks"]["gedit"]["sides"].values()
    assert side["title"].startswith(f"GEdit-Bench, {language.upper()}, 2 of 606 items")
    assert (side["pictures"], side["unscored"], side["missing"], side["score"]) == (2, 0, 0, None)
    for kind in ("ps_human", "color_alter"):
        assert [side["strict"][m][kind]["value"] for m in ("O", "SC", "PQ")] == [6.0, 4.0, 9.0]
        assert side["official"]["O"][kind] == 6.0
    drawn = Path(found["made"][f"draw gedit, {Path(editor).name}"].uri)
    names = sorted(str(path.relative_to(drawn / "fullset")) for path in drawn.rglob("*.png"))
    assert names == [
        f"{kind}/{language}/k{number}{end}.png"
        for kind, number in (("color_alter", 1), ("ps_human", 0))
        for end in ("", "_SRCIMG")
    ]
    assert Image.open(drawn / f"fullset/ps_human/{language}/k0.png").size == (48, 32)  # BAGEL's own rule at tiny size
    # The same folder is scored as one made elsewhere, its sources beside the pictures.
    with loopback_judge(reply) as judge:
        execution = JudgingExecution(base_url=judge.url, key_variable="")
        again = run(replace(chosen, images=str(drawn)), tmp_path / "again", execution)
    (other,) = again["benchmarks"]["gedit"]["sides"].values()
    assert other["strict"] == side["strict"]


def test_gedit_needs_the_pictures_somewhere(editor: str, tmp_path: Path) -> None:
    config = GEditConfig("rows.jsonl", "en", str(tmp_path))
    recipe = replace(published(), benchmarks="gedit", model=ModelConfig("bagel", editor), gedit=config)
    with pytest.raises(SettingsError, match=r"gedit\.sources is not set and rows\.jsonl is no parquet file"):
        evaluate.build(recipe)


def test_imgedit_is_drawn_from_its_sources(tmp_path: Path, editor: str) -> None:
    edits = {str(n): {"id": f"in{n}.png", "prompt": "make it blue", "edit_type": "add"} for n in range(2)}
    (tmp_path / "edits.json").write_text(json.dumps(edits))
    names = "".join(f"{name}: A number from 1 to 5.\n" for name in "ABC")
    (tmp_path / "judge.json").write_text(json.dumps({"add": f"Rate <edit_prompt>.\n{names}"}))
    for number, size in enumerate([(20, 40), (33, 33)]):
        Image.new("RGB", size, "red").save(tmp_path / f"in{number}.png")
    config = ImgEditConfig(
        *(str(tmp_path / name) for name in ("edits.json", "judge.json", "")), drawing=replace(DRAWING, batch_size=1)
    )
    chosen = BenchmarkRecipe(
        "tiny", "imgedit", ModelConfig("bagel", editor), bootstrap=20, judge=JudgeConfig("loopback"), imgedit=config
    )
    with loopback_judge(lambda _: "A: 5\nB: 4\nC: 3") as judge:
        found = run(chosen, tmp_path / "run", JudgingExecution(base_url=judge.url, key_variable=""))
    (side,) = found["benchmarks"]["imgedit"]["sides"].values()
    assert (side["pictures"], side["missing"]) == (2, 0)
    assert side["strict"]["score"]["add"]["value"] == 4.0


def test_grids_are_drawn_and_judged_cell_by_cell(recipe: BenchmarkRecipe, tmp_path: Path) -> None:
    config = replace(recipe.dpgbench, cell=16)
    chosen = replace(recipe, benchmarks="dpgbench", dpgbench=config)
    found = run(chosen, tmp_path / "run")
    (side,) = found["benchmarks"]["dpgbench"]["sides"].values()
    assert (side["pictures"], side["missing"], side["unscored"]) == (2, 0, 0)
    drawn = next(Path(made.uri) for name, made in found["made"].items() if name.startswith("draw dpgbench"))
    assert sorted(path.name for path in drawn.glob("*.png")) == ["a.png", "b.png"]
    assert Image.open(drawn / "a.png").size == (32, 32)
    with pytest.raises(ValueError, match=r"a drawn grid is 32 x 32 pixels, so dpgbench\.cell=10 .*dpgbench\.cell=16"):
        run(replace(chosen, dpgbench=replace(config, cell=10)), tmp_path / "cut")
    with pytest.raises(SettingsError, match=r"batch_size is 6; with dpgbench\.cell a file holds 4 samples"):
        evaluate.build(replace(chosen, dpgbench=replace(config, drawing=replace(DRAWING, batch_size=6))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmarks": "geneva"}, "there is no benchmark 'geneva'; benchmarks are geneval, dpgbench, wise"),
        ({"benchmarks": "geneval"}, "geneval.prompts is not set; get evaluation_metadata.jsonl of github djghosh13"),
        ({"benchmarks": "dpgbench"}, "dpgbench.questions is not set; get dpg_bench.csv"),
        ({"benchmarks": "mme"}, "mme.folder is not set"),
        ({"benchmarks": "mme", "images": "x", "mme": MMEConfig("y")}, "mme asks a model; give --model"),
    ],
)
def test_wrong_recipes_name_the_mend(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message.replace(".", r"\.")):
        evaluate.build(replace(published(), **changes))


def test_the_judge_does_not_enter_the_key_of_the_pictures(recipe: BenchmarkRecipe) -> None:
    def keys(chosen: BenchmarkRecipe) -> dict[str, str]:
        return {node.stage.name: node.key for node in evaluate.build(chosen).nodes}

    base = keys(recipe)
    other = keys(replace(recipe, geneval=replace(recipe.geneval, detector="hub/another"), bootstrap=9))
    assert [name for name in base if base[name] == other[name]] == ["load_checkpoint", "draw"]
    more = keys(replace(recipe, geneval=replace(recipe.geneval, samples=3)))
    assert [name for name in base if base[name] == more[name]] == ["load_checkpoint"]


def test_short_flags_become_settings() -> None:
    words = [
        "run",
        "--model",
        "showo",
        "--checkpoint",
        "a",
        "--benchmarks",
        "geneval,mme",
        "--store",
        "s",
        "--set",
        "bootstrap=9",
    ]
    assert set_words(words) == [
        *("run", "--store", "s", "--set", "bootstrap=9"),
        *("--set=model.family=showo", "--set=model.checkpoint=a", "--set=benchmarks=geneval,mme"),
    ]
    assert set_words(["--model", "showo", "--compare", "a", "b"]) == [
        "--set=model.family=showo",
        "--set=model.checkpoint=a",
        "--set=compare=b",
    ]
    assert set_words(["plan", "--compare", "a", "b"]) == ["plan", "--set=images=a", "--set=compare=b"]
    assert labels_of(["x/a/", "y/b"]) == ["a", "b"]


def test_short_flags_are_in_the_help_and_never_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    for words, status, says in (
        (["--help"], 0, "--checkpoint PATH"),
        (["run", "--chekpoint", "a"], 2, "unrecognized arguments: --chekpoint a; did you mean '--checkpoint'?"),
        (["run", "--check", "a"], 2, "unrecognized arguments: --check a"),
    ):
        with pytest.raises(SystemExit) as end:
            main(evaluate, RECIPES, "published", set_words(words), JudgingExecution(), parents=[short_flags()])
        assert end.value.code == status
        assert says in "".join(capsys.readouterr())


def test_labels_of_places_that_are_alike_are_numbered() -> None:
    assert labels_of(["x/a/", "y/b"]) == ["a", "b"]
    assert labels_of(["x/model", "y/model"]) == ["model (1)", "model (2)"]


def test_recipes_are_claims() -> None:
    for name, function in RECIPES.items():
        assert function().name == name
        assert all(word in (function.__doc__ or "") for word in ("Command:", "Hardware:", "Cost"))
    assert set(BENCHMARKS) <= set(vars(published()))


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_command_draws_judges_and_reports(
    places: Path, smallest_base: Path, tmp_path: Path, short_tmp: Path
) -> None:
    settings = {
        "geneval.prompts": places / "prompts.jsonl",
        "geneval.detector": places / "detector",
        "geneval.clip": places / "clip",
        "geneval.object_names": places / "names.txt",
        "geneval.detector_scale": "96,64",
        "geneval.samples": 1,
        "geneval.drawing.sampling.steps": 2,
        "bootstrap": 20,
    }
    words = ["run", "--model", "showo", "--checkpoint", str(smallest_base), "--benchmarks", "geneval"]
    words += [f"--set={name}={value}" for name, value in settings.items()]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, str(ROOT / "pipelines/evaluate.py"), *words, "--context", "workers=1"]
    done = subprocess.run(
        [*command, "--store", str(tmp_path / "store")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**clean, "RAY_TMPDIR": str(short_tmp), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (summary,) = tmp_path.glob("store/objects/report/*/*/summary.json")
    (side,) = json.loads(summary.read_text())["benchmarks"]["geneval"]["sides"].values()
    assert (side["pictures"], side["complete"]) == (6, True)
    assert list(tmp_path.glob(f"store/objects/total/*/*/{TOTALS}"))
