from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from reca.config import EvaluationConfig, GateConfig, SamplingConfig
from reca.evaluation.gates import GateError, check_gates, require
from reca.evaluation.geneval import TASKS, Detection
from reca.evaluation.minigeneval.evaluate import (
    compare,
    evaluate,
    load_images,
    summarize,
)
from reca.evaluation.minigeneval.prompts import prompts
from reca.evaluation.minigeneval.sampling import choose_sampling
from reca.evaluation.picture_questions import same
from reca.evaluation.reconstruction import recall
from reca.evaluation.records import BenchmarkError
from reca.evaluation.suite import (
    Evaluation,
    EvaluationError,
    compare_all,
    evaluate_all,
    load_all,
    load_reconstructions,
)
from reca.evaluation.understanding import held_out_scenes, questions
from reca.models.base import UnifiedModel


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tmp_path_factory.mktemp("oracle"), tmp_path_factory.mktemp("junk")


@pytest.fixture(scope="module")
def scored(
    oracle: UnifiedModel, junk: UnifiedModel, config: EvaluationConfig, folders: tuple[Path, Path]
) -> tuple[Evaluation, Evaluation]:
    lines: list[str] = []
    pair = evaluate_all(oracle, config, folders[0], lines.append), evaluate_all(junk, config, folders[1])
    assert len(lines) == 3
    return pair


def test_an_oracle_scores_near_the_ceiling(scored: tuple[Evaluation, Evaluation]) -> None:
    best = scored[0]
    assert list(best.minigeneval.scores) == ["overall", *TASKS]
    assert all(best.minigeneval.scores[task].value >= 0.95 for task in TASKS)
    assert best.minigeneval.strict["overall"].value >= 0.98
    assert best.minigeneval.refused == 0
    assert best.understanding.accuracy.value == 1.0
    assert all(best.reconstruction.recall[m].value > 0.98 for m in ("class", "color", "place"))
    assert best.reconstruction.chance["class"].value < 0.5
    assert best.reconstruction.psnr > 60


def test_junk_scores_nothing(scored: tuple[Evaluation, Evaluation]) -> None:
    worst = scored[1]
    assert all(worst.minigeneval.scores[task].value <= 0.05 for task in TASKS)
    assert worst.minigeneval.objects_per_picture < 0.2
    assert worst.understanding.accuracy.value == 0.0
    assert worst.reconstruction.recall["class"].value < 0.05
    assert worst.reconstruction.psnr < 25


def test_totals_follow_from_the_saved_records(
    scored: tuple[Evaluation, Evaluation], folders: tuple[Path, Path], config: EvaluationConfig
) -> None:
    loaded = load_all(folders[0])
    assert loaded == scored[0]
    result = loaded.minigeneval
    assert summarize(result.records, config, "test", result.scorer) == result
    images = load_images(folders[0])
    assert images.shape == (6 * config.prompts_per_task, 3, 64, 64)
    originals, drawn = load_reconstructions(folders[0])
    assert (originals == drawn).all()


def test_differences_are_paired(scored: tuple[Evaluation, Evaluation]) -> None:
    comparison = compare_all(scored[1], scored[0], resamples=200)
    assert comparison.minigeneval.scores["overall"].low > 0
    assert comparison.understanding["overall"].value == 1.0
    assert comparison.reconstruction["place"].low > 0.9
    same_model = compare_all(scored[0], scored[0], resamples=200).minigeneval.scores["overall"]
    assert (same_model.value, same_model.low, same_model.high) == (0.0, 0.0, 0.0)


def test_other_settings_are_not_compared(
    scored: tuple[Evaluation, Evaluation], junk: UnifiedModel, config: EvaluationConfig
) -> None:
    other, _ = evaluate(junk, replace(config, seed=5, prompts_per_task=2))
    with pytest.raises(BenchmarkError, match="differ in seed: 1234 and 5"):
        compare(scored[0].minigeneval, other)
    fewer, _ = evaluate(junk, replace(config, prompts_per_task=2))
    with pytest.raises(BenchmarkError, match="hold other items"):
        compare(scored[0].minigeneval, fewer)
    guided = replace(scored[0].minigeneval.sampling, guidance=9.0)
    with pytest.raises(BenchmarkError, match=r"differ in sampling: .* and SamplingConfig\(guidance=9\.0"):
        compare(scored[0].minigeneval, msgspec.structs.replace(scored[1].minigeneval, sampling=guided))
    answers = msgspec.structs.replace(scored[1].understanding, answers=scored[1].understanding.answers[::-1])
    with pytest.raises(BenchmarkError, match="the questions of the two models are not the same"):
        compare_all(scored[0], msgspec.structs.replace(scored[1], understanding=answers))
    first, *others = scored[1].reconstruction.pictures
    pictures = (msgspec.structs.replace(first, seed=first.seed + 1), *others)
    redrawn = msgspec.structs.replace(scored[1].reconstruction, pictures=pictures)
    with pytest.raises(BenchmarkError, match="the reconstructions of the two models are not the same"):
        compare_all(scored[0], msgspec.structs.replace(scored[1], reconstruction=redrawn))


def test_pictures_do_not_depend_on_the_batch(junk: UnifiedModel, config: EvaluationConfig) -> None:
    small = replace(config, prompts_per_task=3)
    assert torch.equal(evaluate(junk, small, batch_size=18)[1], evaluate(junk, small, batch_size=5)[1])


def test_gates_name_value_and_limit(scored: tuple[Evaluation, Evaluation]) -> None:
    require(check_gates(scored[0], GateConfig()))
    gates = check_gates(scored[1], GateConfig(colors=0.0))
    assert [g.name for g in gates] == ["single_object", "understanding", "class_recall"]
    with pytest.raises(GateError, match=r"understanding is 0\.000, needs 0\.800"):
        require(gates)


def test_sampling_is_chosen_on_validation_prompts(
    oracle: UnifiedModel, junk: UnifiedModel, config: EvaluationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, right = list[str](), oracle.generate

    def drawn(prompts: list[str], seeds: list[int], sampling: SamplingConfig) -> torch.Tensor:
        asked.extend(prompts)
        return (right if sampling.guidance else junk.generate)(prompts, seeds, sampling)

    monkeypatch.setattr(oracle, "generate", drawn)
    candidates = [SamplingConfig(guidance=g) for g in (0.0, 2.0)]
    lines: list[str] = []
    rows = choose_sampling(oracle, replace(config, prompts_per_task=2), candidates, lines.append)
    assert [row.sampling for row in rows] == candidates[::-1]
    assert rows[0].scores["overall"].value > 0.9 > 0.1 > rows[1].scores["overall"].value
    assert [line.split(":")[0] for line in lines] == [str(candidate) for candidate in candidates]
    assert asked == 2 * [prompt.prompt for prompt in prompts("validation", 2)]


def test_missing_scores_are_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=str(tmp_path)):
        load_all(tmp_path)


def test_questions_cover_every_kind() -> None:
    rows = questions(120)
    assert {kind for _, kind, _, _ in rows} == {"presence", "count", "color", "place", "relation", "list"}
    assert all((kind == "count") == asked.startswith("how many") for _, kind, asked, _ in rows)


def test_answers_are_compared_by_words() -> None:
    assert same(" Left  of. ", "left of")
    assert not same("left", "left of")


def test_recall_counts_objects_once() -> None:
    scene = next(s for s in held_out_scenes(50) if len(s.objects) == 2 and s.objects[0].name != s.objects[1].name)
    item = scene.objects[0]
    box = (item.x + 2.0, item.y + 2.0, item.x + 30.0, item.y + 30.0)
    right = Detection(item.name, box, 0.9, item.color)
    assert recall(scene, [right, right]) == {"class": 0.5, "color": 0.5, "place": 0.5}
    away = Detection(item.name, (box[0] + 16, box[1], box[2] + 16, box[3]), 0.9, "none")
    assert recall(scene, [away]) == {"class": 0.5, "color": 0.0, "place": 0.0}
    assert recall(scene, [Detection(item.name, box, 0.4, item.color)]) == {"class": 0.0, "color": 0.0, "place": 0.0}
