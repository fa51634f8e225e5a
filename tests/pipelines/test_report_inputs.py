import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from report_sample import make_report

from pipelines.report import ReportError, render_report, summary
from pipelines.report_inputs import Scored, ceiling_rows, gate_rows, read_curves, read_scores
from reca.config import EvaluationConfig
from reca.data.scenes import CLASSES
from reca.evaluation import reconstruction, suite, understanding
from reca.evaluation.gates import Gate
from reca.evaluation.geneval import TASKS, Detection
from reca.evaluation.minigeneval import evaluate
from reca.evaluation.minigeneval.ceiling import Ceiling
from reca.evaluation.minigeneval.prompts import prompts
from reca.evaluation.picture_questions import PictureQuestion
from reca.evaluation.pictures import png
from reca.evaluation.results import CORRECT

CONFIG = EvaluationConfig(prompts_per_task=5, bootstrap=200)
BOX = (0.0, 0.0, 20.0, 20.0)


def write_scores(folder: Path, good: bool, shade: int) -> None:
    """A folder of scores: a good model draws the first object asked for and answers right; a bad one draws nothing."""
    chosen = prompts("test", CONFIG.prompts_per_task)
    seen = [[Detection(p.include[0].name, BOX, 0.99, p.include[0].color or "red")] if good else [] for p in chosen]
    records = evaluate.judge_pictures(chosen, seen)
    images = torch.full((len(chosen), 3, 8, 8), shade, dtype=torch.uint8)
    evaluate.save(evaluate.summarize(records, CONFIG, "test", "abc"), images, folder)
    kinds = ("presence", "count") * 10
    question = PictureQuestion("?", "yes")
    answers = [
        understanding.Answer(f"{i}", 0, kind, question, "yes", {CORRECT: float(good or i % 2 == 0)})
        for i, kind in enumerate(kinds)
    ]
    (folder / suite.UNDERSTANDING).write_bytes(msgspec.json.encode(understanding.summarize(answers, 200)))
    share = dict.fromkeys(reconstruction.MEASURES, 0.75 if good else 0.25)
    objects = (("dog", "red", 0, 0), ("car", "blue", 32, 32))
    redrawn = [reconstruction.Redrawn(i, "draw it .", i, objects, (), share, share, 100.0) for i in range(15)]
    (folder / suite.RECONSTRUCTION).write_bytes(msgspec.json.encode(reconstruction.summarize(redrawn, 200)))
    picture = [png(torch.full((3, 8, 8), shade, dtype=torch.uint8))] * 15
    pq.write_table(pa.table({"original": picture, "reconstruction": picture}), folder / suite.REDRAWN)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    folders = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("tuned")
    write_scores(folders[0], good=False, shade=10)
    write_scores(folders[1], good=True, shade=200)
    return read_scores(*folders, names=("base", "RecA"), resamples=200)


def test_scores_and_differences_are_those_of_the_records(scored: Scored) -> None:
    tasks = {row.task: row for row in scored.scores.tasks}
    assert list(tasks) == ["single object", "two objects", "counting", "colors", "position", "color attribution"]
    for task in ("single object", "colors"):
        assert (tasks[task].before, tasks[task].after, tasks[task].prompts) == (0.0, 1.0, 5)
        assert tasks[task].difference.low == tasks[task].difference.high == 1.0
    assert tasks["two objects"].after == 0.0
    assert scored.scores.overall.prompts == 30
    assert scored.scores.overall.after == pytest.approx(2 / 6)
    assert scored.scores.strict.task == "overall, strict"
    assert (scored.scores.objects_before, scored.scores.objects_after) == (0.0, 1.0)
    assert scored.scores.sampler == "guidance 2, 12 steps, temperature 1"


def test_grids_pair_pictures_of_one_prompt(scored: Scored) -> None:
    assert scored.prompt_grid.columns == ("base", "RecA")
    assert len(scored.prompt_grid.rows) == 4 * 6
    assert scored.prompt_grid.rows[0].label.removeprefix("a ") in CLASSES
    before, after = scored.prompt_grid.rows[0].pictures
    assert before.passed is False
    assert before.note
    assert after.passed is True
    assert not after.note
    assert before.data != after.data
    assert len(scored.reconstruction_grid.rows) == 12
    assert scored.reconstruction_grid.columns == ("original", "base", "RecA")
    assert scored.reconstruction_grid.rows[0].label == "red dog, blue car"


def test_measures_carry_paired_intervals(scored: Scored) -> None:
    accuracy, *kinds = scored.understanding
    assert (accuracy.name, accuracy.n, accuracy.before, accuracy.after) == ("accuracy", 20, 0.5, 1.0)
    assert accuracy.difference is not None
    assert accuracy.difference.value == pytest.approx(0.5)
    assert accuracy.difference.verdict == "gain"
    assert [(row.name, row.before) for row in kinds] == [("presence questions", 1.0), ("count questions", 0.0)]
    assert [row.name for row in scored.reconstruction] == [
        *(f"{measure} recall" for measure in reconstruction.MEASURES),
        *(f"{measure} recall by chance" for measure in reconstruction.MEASURES),
        "PSNR",
    ]
    assert scored.reconstruction[0].difference is not None
    assert scored.reconstruction[0].difference.value == pytest.approx(0.5)


def test_curves_come_by_task_and_count_from_one(tmp_path: Path) -> None:
    lines = [{"update": i, "losses": {"reconstruction": 2.0 - i, "image_to_text": 0.5}, "loss": 1} for i in range(2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    recon, answers = read_curves(tmp_path / "metrics.jsonl")
    assert (recon.term, recon.updates, recon.values) == ("reconstruction", (1, 2), (2.0, 1.0))
    assert answers.term == "image to text"
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ReportError, match=r"metrics\.jsonl holds no update"):
        read_curves(tmp_path / "metrics.jsonl")


def test_what_was_read_can_be_rendered(scored: Scored) -> None:
    ceiling = Ceiling(
        accept={"clean": dict.fromkeys(TASKS, 0.99), "half_resolution": dict.fromkeys(TASKS, 0.9)},
        reject={"clean": dict.fromkeys(TASKS, 1.0), "half_resolution": dict.fromkeys(TASKS, 0.95)},
        junk={"noise": dict.fromkeys(TASKS, 0.004), "blobs": dict.fromkeys(TASKS, 0.0)},
        scenes=10,
        junk_pictures=10,
    )
    data = replace(
        make_report(),
        gates=gate_rows([Gate("class_recall", 0.25, 0.3)]),
        ceilings=ceiling_rows(ceiling),
        **{name: getattr(scored, name) for name in Scored.__dataclass_fields__},
    )
    page = render_report(data)
    assert "1 of 1 gates failed: class recall" in page
    assert "0.900 / 0.950" in page
    assert summary(data)["ceilings"][0]["junk"] == pytest.approx(0.002)
