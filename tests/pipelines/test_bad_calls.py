"""Bad calls of the evaluation: files and folders that are not there, pictures that do not fit, judges out of reach."""

import json
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import ray
from in_process import run, stay_here
from loopback_judge import Behaviour, loopback_judge
from small_sets import SETS, png, rows, write, write_all

from pipelines import benchmark_stages
from pipelines.benchmark_stages import endpoint_named
from pipelines.dsl import External, SettingsError, main
from pipelines.evaluate import RECIPES, check, evaluate, set_words
from reca.evaluation.catalog import read_benchmark
from reca.evaluation.geneval_benchmark import Sighting
from reca.evaluation.judge_client import JudgeError
from reca.evaluation.run_config import (
    BenchmarkRecipe,
    DPGBenchConfig,
    GEditConfig,
    GenEvalConfig,
    ImgEditConfig,
    JudgeConfig,
    JudgingExecution,
    WISEConfig,
)

REPLIES: dict[str, Behaviour] = {
    "dpgbench": lambda _: "yes",
    "wise": lambda _: "Consistency: 2\nRealism: 1\nAesthetic Quality: 0",
    "imgedit": lambda _: "A: 5\nB: 4\nC: 3",
    "gedit": lambda _: json.dumps({"score": [9, 4]}),
}
DRAWN = ("geneval", *REPLIES)
"""Benchmarks of pictures."""


class Seeing:
    """GenEval's judge without networks: two dogs in every picture, and a NaN where a picture is blue."""

    def see(self, asked: Sequence[Any], pictures: Sequence[Any]) -> list[tuple[Sighting, ...]]:
        def dogs(score: float) -> tuple[Sighting, ...]:
            return (Sighting("dog", (0, 0, 2, 2), score), Sighting("dog", (4, 4, 6, 6), 0.95))

        return [dogs(float("nan") if p.getpixel((0, 0)) == (0, 0, 255) else 0.95) for p in pictures]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_all(tmp_path_factory.mktemp("sets"))
    (folder / "wise.txt").write_text("Is this <prompt>? <explanation>")
    (folder / "viescore").mkdir()
    (folder / "viescore/consistency.txt").write_text("Did it follow <instruction>?")
    (folder / "viescore/quality.txt").write_text("Is it well made?")
    (folder / "sources").mkdir()
    (folder / "sources/in.png").write_bytes(png())
    (folder / "weights").mkdir()
    (folder / "weights/config.json").write_text("{}")
    return folder


@pytest.fixture
def recipe(sets: Path, monkeypatch: pytest.MonkeyPatch) -> BenchmarkRecipe:
    stay_here(monkeypatch)
    monkeypatch.setattr(benchmark_stages, "load_geneval_judge", lambda *_, **__: Seeing())
    weights = str(sets / "weights")
    return BenchmarkRecipe(
        name="tiny",
        bootstrap=20,
        judge=JudgeConfig(model="loopback", turns=1),
        geneval=GenEvalConfig(str(sets / "geneval.jsonl"), detector=weights, clip=weights, samples=2),
        dpgbench=DPGBenchConfig(str(sets / "dpg.csv"), samples=2),
        wise=WISEConfig(str(sets / "wise.json"), judge_prompt=str(sets / "wise.txt")),
        imgedit=ImgEditConfig(*(str(sets / name) for name in ("imgedit.json", "imgedit_prompts.json", "sources"))),
        gedit=GEditConfig(str(sets / "gedit.jsonl"), judge_prompts=str(sets / "viescore")),
    )


def made(name: str, sets: Path, folder: Path) -> list[Path]:
    """Every picture of a set, in its published layout, with GEdit's sources; the paths in order."""
    items = SETS[name].read(sets).items
    paths = [folder / path for item in items for path in item.pictures]
    beside = [folder / item.source for item in items if item.source and name == "gedit"]
    for path in (*paths, *beside):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    return paths


def scored(recipe: BenchmarkRecipe, name: str, images: Path, folder: Path, **more: Any) -> dict[str, Any]:
    """The benchmark's part of `summary.json`."""
    chosen = replace(recipe, benchmarks=name, images=str(images), **more)
    if name not in REPLIES:
        return run(chosen, folder)["benchmarks"][name]
    with loopback_judge(REPLIES[name]) as judge:
        return run(chosen, folder, JudgingExecution(base_url=judge.url, key_variable=""))["benchmarks"][name]


@pytest.mark.parametrize("name", DRAWN)
def test_missing_extra_and_unreadable_pictures_are_counted_and_shown(
    name: str, recipe: BenchmarkRecipe, sets: Path, tmp_path: Path
) -> None:
    images = tmp_path / "made"
    first, *_, last = made(name, sets, images)
    first.write_bytes(png((40, 40))[:60])
    last.unlink()
    (images / "extra.jpeg").write_bytes(png())
    (side,) = scored(recipe, name, images, tmp_path / "run")["sides"].values()
    assert (side["unscored"], side["missing"], side["complete"]) == (1, 1, False)
    assert side["title"].endswith("incomplete")
    assert side["settings"]["pictures of no item"] == "1, such as extra.jpeg"
    shown = " ".join(side["notes"])
    assert f"1 expected pictures have no record, such as {last.relative_to(images)}" in shown
    assert f"sample 0: {first}: unreadable picture: " in shown


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("data", [b"text", png()[:30]], ids=["text", "cut"])
def test_not_one_readable_picture_leaves_no_score(
    name: str, data: bytes, recipe: BenchmarkRecipe, sets: Path, tmp_path: Path
) -> None:
    paths = made(name, sets, tmp_path / "made")
    for path in paths:
        path.write_bytes(data)
    (side,) = scored(recipe, name, tmp_path / "made", tmp_path / "run")["sides"].values()
    assert (side["score"], side["unscored"]) == (None, len(paths))


@pytest.mark.parametrize("name", DRAWN)
def test_a_folder_without_the_pictures_is_refused(
    name: str, recipe: BenchmarkRecipe, sets: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.png").write_bytes(png())
    with pytest.raises(ValueError, match=r"holds none of the \d expected pictures, such as .*; give a folder in"):
        scored(recipe, name, tmp_path, tmp_path / "run")


@pytest.mark.parametrize("name", DRAWN)
def test_an_empty_group_leaves_no_overall_and_says_so(
    name: str, recipe: BenchmarkRecipe, sets: Path, tmp_path: Path
) -> None:
    made(name, sets, tmp_path / "made")
    (side,) = scored(recipe, name, tmp_path / "made", tmp_path / "run")["sides"].values()
    empty = [note for note in side["notes"] if note.endswith("has no scored picture, so there is no overall")]
    assert (side["score"] is None) == bool(empty) == (name != "dpgbench")  # a mean over items has no groups
    assert side["missing"] == side["unscored"] == 0


@pytest.mark.parametrize("name", ["imgedit", "gedit"])
def test_missing_sources_of_edits_are_refused_before_the_judge_is_asked(
    name: str, recipe: BenchmarkRecipe, sets: Path, tmp_path: Path
) -> None:
    made(name, sets, tmp_path / "made")
    (tmp_path / "none").mkdir()
    chosen = replace(recipe, imgedit=replace(recipe.imgedit, sources=str(tmp_path)))
    for path in tmp_path.rglob("k1_SRCIMG.png"):
        path.unlink()
    with pytest.raises(ValueError, match=rf"1 of \d pictures are missing, such as .*: --set {name}\.sources=DIR"):
        scored(chosen, name, tmp_path / "made", tmp_path / "run")


def test_a_nan_of_the_detector_is_counted(recipe: BenchmarkRecipe, sets: Path, tmp_path: Path) -> None:
    first, *_ = made("geneval", sets, tmp_path / "made")
    first.write_bytes(png(color="blue"))
    (side,) = scored(recipe, "geneval", tmp_path / "made", tmp_path / "run")["sides"].values()
    assert (side["unscored"], side["missing"]) == (1, 0)
    reason = (
        "1 unscored: a box, score or colour is not a number, such as item '00000', sample 0: detection of dog holds"
    )
    assert any(note.startswith(reason) for note in side["notes"])


def test_a_detector_of_nan_alone_is_named(recipe: BenchmarkRecipe, sets: Path, tmp_path: Path) -> None:
    for path in made("geneval", sets, tmp_path / "made"):
        path.write_bytes(png(color="blue"))
    message = r"a box, score or colour is not a number; the judge gives NaN: .*; set geneval\.detector or geneval\.clip"
    with pytest.raises(ValueError, match=message):
        scored(recipe, "geneval", tmp_path / "made", tmp_path / "run")


def test_grids_of_another_size_are_counted(recipe: BenchmarkRecipe, sets: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made/a.png").write_bytes(png((33, 32)))
    chosen = replace(recipe, dpgbench=replace(recipe.dpgbench, cell=16))
    (side,) = scored(chosen, "dpgbench", tmp_path / "made", tmp_path / "run")["sides"].values()
    assert (side["score"], side["unscored"]) == (None, 1)
    assert "a.png: is 33 x 32 pixels, a grid of 2 x 2 samples of dpgbench.cell=16 has 32 x 32" in str(side["notes"])


def test_sides_are_compared_over_what_both_have(recipe: BenchmarkRecipe, sets: Path, tmp_path: Path) -> None:
    first, *_ = made("wise", sets, tmp_path / "one")
    *_, last = made("wise", sets, tmp_path / "two")
    (tmp_path / "two/3.png").write_bytes(png())
    found = scored(recipe, "wise", tmp_path / "one", tmp_path / "both", compare=str(tmp_path / "two"))
    assert (found["differences"]["pictures"], found["differences"]["left_out"]) == (2, 0)
    same = scored(recipe, "wise", tmp_path / "one", tmp_path / "same", compare=str(tmp_path / "one"))
    assert list(same["sides"]) == ["one (1)", "one (2)"]
    assert same["differences"]["tables"]["WiScore"]["CULTURE"]["value"] == 0
    first.unlink()
    found = scored(recipe, "wise", tmp_path / "one", tmp_path / "fewer", compare=str(tmp_path / "two"))
    assert (found["differences"]["pictures"], found["differences"]["left_out"]) == (1, 1)
    page = (tmp_path / "fewer/5/report.html").read_text()
    # Both sides of an item in one card: the second item has both pictures, the first, which comes after it, one.
    second, first_item = page.split('class="card"')[1:]
    assert [text in second for text in ("<p>2: p</p>", "<b>one</b>", "<b>two</b>", "no picture")] == [True] * 3 + [
        False
    ]
    assert second.count("data:image") == 2
    assert (
        first_item.index("<b>one</b><br>no picture") < first_item.index("data:image") < first_item.index("<b>two</b>")
    )
    last.unlink()
    with pytest.raises(ValueError, match="no picture is scored on both sides; score both on the same items"):
        scored(recipe, "wise", tmp_path / "one", tmp_path / "none", compare=str(tmp_path / "two"))


def drawn_with(folder: Path, benchmark: str, edition: str, guidance: float, seed: int = 0) -> None:
    said = {"benchmark": benchmark, "edition": edition, "seed": seed, "batch_size": 8}
    sampling = {"guidance": guidance, "steps": 50, "temperature": 1.0}
    (folder / "drawing.json").write_text(json.dumps({**said, "sampling": sampling}))


def reported(folder: Path, name: str = "tables.md") -> str:
    """A file of the report of a run."""
    (path,) = folder.glob(f"*/{name}")
    return path.read_text()


def test_sides_that_were_not_drawn_alike_are_told_first(recipe: BenchmarkRecipe, sets: Path, tmp_path: Path) -> None:
    made("wise", sets, tmp_path / "one")
    made("wise", sets, tmp_path / "two")
    drawn_with(tmp_path / "one", "WISE", "first edition", 5.0)
    drawn_with(tmp_path / "two", "WISE", "first edition", 5.0)
    found = scored(recipe, "wise", tmp_path / "one", tmp_path / "same", compare=str(tmp_path / "two"))
    assert [side["settings"]["guidance"] for side in found["sides"].values()] == ["5", "5"]
    assert "not the same" not in reported(tmp_path / "same")
    drawn_with(tmp_path / "two", "WISE", "first edition", 3.0, seed=1)
    scored(recipe, "wise", tmp_path / "one", tmp_path / "other", compare=str(tmp_path / "two"))
    end = "; the difference is not of the models alone"
    expected = [
        f"not the same {name}: {text}{end}"
        for name, text in (("guidance", "5 (one) and 3 (two)"), ("noise seed", "0 (one) and 1 (two)"))
    ]
    notes = [line for line in reported(tmp_path / "other").splitlines() if line.startswith("- ")]
    assert [line.split(": ", 1)[1] for line in notes[:2]] == expected
    assert expected[0] in reported(tmp_path / "other", "report.html")
    (tmp_path / "two/drawing.json").write_text("made by another tool")
    (tmp_path / "two/1.png").unlink()
    (tmp_path / "two/1001.png").write_bytes(png())
    scored(recipe, "wise", tmp_path / "one", tmp_path / "unknown", compare=str(tmp_path / "two"))
    page = reported(tmp_path / "unknown")
    for said in (
        "guidance: 5 (one) and not known (two)",
        "number of judged pictures: 2 (one) and 1 (two)",
        "pictures of no item: none (one) and 1, such as 1001.png (two)",
    ):
        assert f"not the same {said}{end}" in page


def test_pictures_that_were_drawn_for_another_edition_are_refused(
    recipe: BenchmarkRecipe, sets: Path, tmp_path: Path
) -> None:
    for name, edition in (("WISE", "first edition, rewritten prompts"), ("WISE_Verified", "2026")):
        made("wise", sets, tmp_path / name)
        drawn_with(tmp_path / name, name, edition, 5.0)
        message = (
            f"drawing.json says that these pictures were drawn for {name}, {edition}; they are to be scored as WISE"
        )
        with pytest.raises(ValueError, match=message):
            scored(recipe, "wise", tmp_path / name, tmp_path / f"{name} scored")
    made("dpgbench", sets, tmp_path / "dpg")
    drawn_with(tmp_path / "dpg", "DPG-Bench", "1,065 of 1,065 items", 5.0)
    assert scored(recipe, "dpgbench", tmp_path / "dpg", tmp_path / "part")["sides"]


def test_a_judge_out_of_reach_is_named(
    recipe: BenchmarkRecipe, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made("wise", sets, tmp_path / "made")
    chosen = replace(recipe, benchmarks="wise", images=str(tmp_path / "made"))
    with pytest.raises(SettingsError, match=r"no endpoint is named; give its address: --context base_url=http"):
        endpoint_named(JudgingExecution())
    monkeypatch.setenv("EMPTY_KEY", " \n")
    closed = JudgingExecution(base_url="http://127.0.0.1:9/v1", key_variable="EMPTY_KEY")
    with pytest.raises(SettingsError, match="environment variable EMPTY_KEY is not set"):
        endpoint_named(closed)
    with pytest.raises(SettingsError, match="a spending cap needs the prices of a million tokens"):
        endpoint_named(replace(closed, key_variable="", most_cost=1.0))
    endpoint_named(replace(closed, key_variable=""))
    with pytest.raises(
        JudgeError, match=r"environment variable EMPTY_KEY is not set; put the key of http.*key_variable="
    ):
        run(chosen, tmp_path / "key", closed)


def called(words: str, capsys: pytest.CaptureFixture[str], store: Path) -> str:
    """What a call that must fail says: one line, without a traceback."""
    argv = [*shlex.split(words), "--store", str(store)]
    try:
        status = main(evaluate, RECIPES, "published", set_words(argv), JudgingExecution(), check)
    except SystemExit as error:
        status = error.code
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("usage:", " "))]
    assert status in (1, 2)
    assert len(said) == 1
    return said[0]


NEEDED = {
    "geneval": "prompts={0}/none",
    "dpgbench": "questions={0}/none",
    "wise": "prompts={0}/none judge_prompt={0}/wise.txt",
    "wise ": "prompts={0}/wise.json judge_prompt={0}/none",
    "imgedit": "edits={0}/none judge_prompts={0}/imgedit_prompts.json sources={0}/sources",
    "imgedit ": "edits={0}/imgedit.json judge_prompts={0}/none sources={0}/sources",
    "imgedit  ": "edits={0}/imgedit.json judge_prompts={0}/imgedit_prompts.json sources={0}/none",
    "gedit": "records={0}/none judge_prompts={0}/viescore",
    "gedit ": "records={0}/gedit judge_prompts={0}/none",
    "gedit  ": "records={0}/gedit judge_prompts={0}/viescore sources={0}/none",
    "pope": "questions={0}/none images={0}/sources",
    "pope ": "questions={0}/pope images={0}/none",
    "gqa": "questions={0}/none images={0}/sources",
    "gqa ": "questions={0}/gqa.json images={0}/none",
    "mme": "folder={0}/none",
    "mmmu": "folder={0}/none",
}
"""Settings of each benchmark, one of which names nothing."""


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_not_there_is_named_with_its_setting_and_where_to_get_it(
    name: str, sets: Path, tmp_path: Path, smallest_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = name.strip()
    places = [f"{key}.{word}" for word in NEEDED[name].format(sets).split()]
    side = f"--images {sets}/sources" if key in DRAWN else f"--model showo --checkpoint {smallest_base}"
    settings = " ".join(f"--set {word}" for word in (*places, "judge.model=x"))
    said = called(f"plan {side} --benchmarks {key} {settings}", capsys, tmp_path)
    (setting,) = [word.partition("=")[0] for word in places if word.endswith("/none")]
    assert said.startswith(f"error: the input {sets}/none is missing or empty (looked at {sets}/none); get ")
    assert said.endswith(f"and give its path or URL: --set {setting}=PATH")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--images {0}/none --benchmarks geneval", "give the folder that holds the pictures: --images DIR"),
        ("--images {0}/sources --benchmarks geneval,wise", "one folder for each: DIR/geneval"),
        ("--compare {0}/sources {0}/none --benchmarks geneval", "give the folder that holds the pictures"),
        ("--compare {0}/sources --benchmarks geneval", "argument --compare: expected 2 arguments"),
        ("--images a --compare b c", "error: --compare and --images both say what is scored; give one of them"),
        ("--model showo --checkpoint a --compare b c", "--compare and --checkpoint both say what is scored"),
        ("--images a --model showo", "--images and --model both say what is scored"),
        ("--images {0}/sources --benchmarks wise --set judge.model=", "judge.model is not set; name the judge"),
        ("--images {0}/sources --benchmarks gedit --set gedit.language=zh", "wants one of en, cn, and 'zh' is none"),
        ("--images {0}/sources --benchmarks wise --set wise.edition=x", "one of '' (empty), rewritten, verified"),
        ("--images {0} --set geneval.samples=0", "geneval.samples is 0; it must lie in [1, inf)"),
        (
            "--images {0} --set dpgbench.cell=-1 --set bootstrap=0",
            "bootstrap is 0; it must lie in [1, inf); dpg",
        ),
        ("--images {0} --context concurrency=0", "--context concurrency is 0; it must lie in [1, inf)"),
        ("--images {0}/sources --set geneval.detector={0}/none", "a hub id (ORG/NAME): --set geneval.detector=PLACE"),
        ("--model showo --checkpoint {0}/none --benchmarks mme", "/none); check model.checkpoint, or the credentials"),
        ("--model showo --compare {0}/weights {0}/none --benchmarks mme", "/none); check compare, or the credentials"),
        ("--model shower --benchmarks mme", "model.family='shower' is unknown; nearest: 'showo'"),
    ],
)
def test_wrong_calls_name_the_mend(
    words: str, message: str, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "geneval.prompts": "geneval.jsonl",
        "wise.prompts": "wise.json",
        "wise.judge_prompt": "wise.txt",
        "gedit.records": "gedit.jsonl",
        "gedit.judge_prompts": "viescore",
        "mme.folder": "mme",
    }
    settings = " ".join(f"--set {name}={sets}/{place}" for name, place in given.items())
    assert message in called(f"plan {settings} --set judge.model=x {words.format(sets)}", capsys, tmp_path)


SETTINGS = {
    "geneval": "prompts=geneval.jsonl",
    "dpgbench": "questions=dpg.csv",
    "wise": "prompts=wise.json judge_prompt=wise.txt",
    "imgedit": "edits=imgedit.json judge_prompts=imgedit_prompts.json sources=sources",
    "gedit": "records=gedit judge_prompts=viescore sources=sources",
}
NO_DOG = {"tag": "counting", "include": [{"class": "dragon", "count": 1}], "prompt": "a dragon"}
VERIFIED = {"prompt_id": 650, "Prompt": "a birch", "Explanation": "yellow", "Category": "Biology"}
BROKEN = [
    ("geneval", "geneval.jsonl", json.dumps(NO_DOG), "'a dragon' asks for 'dragon', which is no class of the detector"),
    ("dpgbench", "dpg.csv", "item_id,text\na,b\n", "dpg.csv: column proposition_id, dependency"),
    ("wise", "wise.txt", "Is this <prompt>?", "wise.txt: place-holder <explanation> is missing; put it where"),
    ("wise", "wise.txt", " ", "wise.txt: is empty; get data or data_verified of github PKU-YuanGroup/WISE"),
    (
        "wise",
        "wise.txt",
        "<prompt> <explanation> Score: 1",
        "wise.txt: asks for one score, 0 or 1, as the judge prompt",
    ),
    ("wise", "wise.json", json.dumps([VERIFIED]), "650 has the Category 'Biology', which the first edition does not"),
    ("imgedit", "imgedit_prompts.json", "{}", "imgedit_prompts.json: the prompt for 'add' names 0 scores, expected 3"),
    (
        "imgedit",
        "imgedit_prompts.json",
        json.dumps({"add": "Rate it.\n" + "".join(f"{name}: A number from 1 to 5.\n" for name in "ABC")}),
        "imgedit_prompts.json, judge prompt 'add': place-holder <edit_prompt> is missing",
    ),
    ("gedit", "viescore/consistency.txt", "Well?", "consistency.txt: place-holder <instruction> is missing"),
    ("gedit", "viescore/quality.txt", None, "viescore/quality.txt: no such file; get VIEScore's prompts"),
]


@pytest.mark.parametrize(("name", "file", "content", "message"), BROKEN, ids=lambda value: str(value)[:20])
def test_files_in_words_are_refused_before_anything_starts(
    name: str,
    file: str,
    content: str | None,
    message: str,
    sets: Path,
    tmp_path: Path,
    smallest_base: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = tmp_path / "sets"
    shutil.copytree(sets, mine)
    (mine / file).unlink()
    if content is not None:
        (mine / file).write_text(content)
    places = [f"--set {name}.{word.replace('=', f'={mine}/')}" for word in SETTINGS[name].split()]
    model = f"--model showo --checkpoint {smallest_base}"
    side = model if name in ("geneval", "dpgbench", "wise") else f"--images {mine}/sources"
    weights = f"--set geneval.detector={mine}/weights --set geneval.clip={mine}/weights --set judge.model=x"
    words = f"run {side} --benchmarks {name} {weights} {' '.join(places)} --context base_url=http://127.0.0.1:9/v1"
    assert message in called(words, capsys, tmp_path / "store")
    assert not ray.is_initialized()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", ["geneval", "dpgbench", "wise", "imgedit", "gedit", "gqa", "pope", "mme", "mmmu"])
def test_prompt_files_on_a_web_server_are_read_and_have_an_identity(name: str, sets: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(sets)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        small, place = SETS[name], f"http://127.0.0.1:{server.server_address[1]}"
        bench = small.read(sets)
        found = replace(small, place=f"{place}/{small.place}")
        assert External(found.place).canonical_form()["content"]
        assert read_benchmark(small.reading, found.place, f"{place}/imgedit_prompts.json") == bench
        absent = External(f"{place}/none", advice="get it")
        with pytest.raises(ValueError, match=r"/none is missing or empty .*; get it"):
            absent.canonical_form()
    finally:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    """Writes no log."""

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def test_ids_that_stand_twice_stop_the_run(recipe: BenchmarkRecipe, sets: Path, tmp_path: Path) -> None:
    made("wise", sets, tmp_path / "made")
    write("wise", tmp_path, rows("wise", (1, 1)))
    chosen = replace(recipe, wise=replace(recipe.wise, prompts=str(tmp_path / "wise.json")))
    with pytest.raises(ValueError, match=r"wise\.json, row 2 \(prompt_id 1\) repeats .*wise\.json, row 1 "):
        scored(chosen, "wise", tmp_path / "made", tmp_path / "run")
