"""A model refuses some pictures or answers: these are counted with their reason, the others are scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bagel_tiny
import msgspec
import pytest
import torch
from actor_stand_in import spread
from PIL import Image
from test_generation import CONFIG, WORDS, Recorder, benchmark, pixels
from torch import Tensor

from pipelines.benchmark_stages import picture_settings
from pipelines.dsl import External
from pipelines.report_inputs import read_edits, read_scores
from reca.config import EditConfig, EvaluationConfig, ExecutionConfig, SamplingConfig
from reca.data.scenes import render
from reca.evaluation import generation, looking, miniedit
from reca.evaluation.answering import Examinee
from reca.evaluation.catalog import SHAPES
from reca.evaluation.generation import Painter, draw, drawings
from reca.evaluation.looking import kept_records, look
from reca.evaluation.minigeneval import evaluate as minigeneval
from reca.evaluation.minigeneval.scorer import Scorer
from reca.evaluation.picture_files import Pictures, find_pictures
from reca.evaluation.picture_questions import PictureQuestion
from reca.evaluation.pope import POPE, SETS
from reca.evaluation.prompt_files import read_dpgbench
from reca.evaluation.records import BenchmarkError, Item
from reca.evaluation.refusals import UNSCORED, after_encoding
from reca.evaluation.suite import compare_all, evaluate_all, load_all
from reca.evaluation.tally import AllRefusedError, Tally, spaced
from reca.models.base import Geometry, UnifiedModel
from reca.models.finite import MEND, NonFiniteOutputError
from reca.models.showo.model import ShowoModel

ROOT = Path(__file__).resolve().parents[2]
REASON = "tiny: NaN or infinity in the picture"
EXECUTION = ExecutionConfig()


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are done in this process."""
    monkeypatch.setattr(generation, "spread", spread)
    monkeypatch.setattr(looking, "spread", spread)


def refuse(result: Any, bad: Sequence[bool]) -> Any:
    """The result, or an error for the bad rows."""
    if any(bad):
        raise NonFiniteOutputError({row: REASON for row, odd in enumerate(bad) if odd}, len(bad), result)
    return result


class Picky(Recorder):
    """Refuses prompts that hold a word, or what `odd` says of seeds."""

    def __init__(self, word: str = "blue", odd: Callable[[int], bool] = lambda _: False) -> None:
        super().__init__()
        self.word, self.odd = word, odd

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        drawn = super().generate(prompts, seeds, sampling)
        return refuse(drawn, [self.word in text or self.odd(seed) for text, seed in zip(prompts, seeds, strict=True)])


def test_refused_pictures_stay_missing_with_their_reason_and_the_rest_is_drawn(tmp_path: Path) -> None:
    bench, folder, model = benchmark(tmp_path), tmp_path / "pictures", Picky()
    lines: list[str] = []
    report = draw(bench, lambda: model, str(folder), CONFIG, EXECUTION, lines.append)
    assert (report.pictures, report.drawn, report.refused) == (6, 6, 4)
    assert lines[-1] == "6 of 10 pictures drawn, 4 refused"
    draw(bench, Recorder, str(tmp_path / "sound"), CONFIG, EXECUTION)
    drawn, sound = pixels(folder), pixels(tmp_path / "sound")
    assert len(drawn) == 6
    assert all((picture == sound[name]).all() for name, picture in drawn.items())
    found = find_pictures(str(folder), bench.items)
    paths = [f"0000{item}/samples/000{sample}.png" for item in (1, 4) for sample in (0, 1)]
    assert found.missing == tuple(paths)
    assert found.refused == dict.fromkeys(paths, REASON)
    said = picture_settings(External(str(folder)), found)
    assert said["missing because the model refused them"] == f"4, such as {paths[0]}: {REASON}"


def test_a_run_that_goes_on_tries_refused_pictures_once_more_and_ends(tmp_path: Path) -> None:
    bench, folder = benchmark(tmp_path), tmp_path / "pictures"
    draw(bench, Picky, str(folder), CONFIG, EXECUTION)
    again = Picky()
    assert draw(bench, lambda: again, str(folder), CONFIG, EXECUTION).drawn == 0
    assert [prompts for prompts, _ in again.calls] == [["two blue cars"] * 2 + ["a blue cat"] * 2]
    assert len(find_pictures(str(folder), bench.items).refused) == 4
    report = draw(bench, Recorder, str(folder), CONFIG, EXECUTION)
    assert (report.pictures, report.drawn, report.refused) == (10, 4, 0)
    found = find_pictures(str(folder), bench.items)
    assert (found.missing, found.extra, found.refused) == ((), (), {})


def test_a_model_that_refuses_everything_ends_the_stage(tmp_path: Path) -> None:
    bench, folder = benchmark(tmp_path), tmp_path / "pictures"
    with pytest.raises(AllRefusedError, match=r"none of 10 pictures can be scored: tiny: NaN .*; use float32"):
        draw(bench, lambda: Picky(""), str(folder), CONFIG, EXECUTION)
    assert pixels(folder) == {}
    (folder / "refused.json").write_text("[")
    with pytest.raises(BenchmarkError, match=r"refused\.json: no reasons by path: .*; delete it"):
        find_pictures(str(folder), bench.items)


def test_a_model_that_refuses_everything_ends_the_stage_early(tmp_path: Path) -> None:
    bench, folder, model = (
        benchmark(tmp_path, words=[f"a red cat {n}" for n in range(40)]),
        tmp_path / "pictures",
        Picky(""),
    )
    message = (
        r"^none of the first 32 of 80 pictures can be scored, so the rest was not tried: "
        r"tiny: NaN or infinity in the picture; use float32 .* diverged; then run the same command again$"
    )
    with pytest.raises(AllRefusedError, match=message):
        draw(bench, lambda: model, str(folder), CONFIG, EXECUTION)
    assert len(model.calls) == 32 // CONFIG.batch_size
    # From all over the set, not its first items.
    firsts = [drawings(bench, CONFIG.seed)[number * 20 // 8 * CONFIG.batch_size].seeds[0] for number in range(8)]
    assert [seeds[0] for _, seeds in model.calls] == firsts
    assert draw(bench, Recorder, str(folder), CONFIG, EXECUTION).drawn == 80
    few = dict(sorted(pixels(folder).items())[-1:])
    for path in folder.rglob("*.png"):
        if str(path.relative_to(folder)) not in few:
            path.unlink()
    # One picture is there already, so what is missing is counted and no end.
    assert draw(bench, lambda: Picky(""), str(folder), CONFIG, EXECUTION).refused == 79


def test_few_batches_and_few_items_are_no_reason_to_end_early() -> None:
    tally = Tally(600, "answers", MEND)
    for _ in range(3):
        tally.add(50, [REASON] * 50)
    tally.add(50, [REASON] * 49)
    for _ in range(9):
        tally.add(50, [REASON] * 50)
    tally.close()
    tally = Tally(600, "answers", MEND)
    for size in (10, 10, 10, 1):
        tally.add(size, [REASON] * size)
    with pytest.raises(AllRefusedError) as error:
        tally.add(4, ["tiny: NaN in the answer"] * 4)
    found = f"{REASON} (31), tiny: NaN in the answer (4)"
    assert f"none of the first 35 of 600 answers can be scored, so the rest was not tried: {found}; " in str(
        error.value
    )


def test_a_message_lists_the_three_most_common_reasons() -> None:
    tally = Tally(8, "pictures", "mend it")
    tally.add(8, [*"aaabbcde"])
    with pytest.raises(AllRefusedError) as error:
        tally.close()
    found = "a (3), b (2), c (1), and 2 for other reasons"
    assert str(error.value) == f"none of 8 pictures can be scored: {found}; mend it"


def test_what_could_not_be_asked_for_is_no_sound_answer() -> None:
    tally = Tally(6, "items", MEND)
    tally.add(2, [REASON] * 2, unread=1)
    tally.add(3, [REASON] * 3)
    with pytest.raises(AllRefusedError, match="none of 5 items can be scored"):
        tally.close()
    Tally(0, "items", MEND).close()


@pytest.mark.parametrize(
    ("count", "size", "first"), [(40, 8, [0, 10, 20, 30]), (3, 50, [0, 1, 2]), (9, 1, [*range(9)])]
)
def test_the_first_batches_are_from_all_over_and_none_is_lost(count: int, size: int, first: list[int]) -> None:
    order = spaced(range(count), size)
    assert order[: len(first)] == first
    assert sorted(order) == list(range(count))
    assert order[len(first) :] == sorted(order[len(first) :])


def test_a_grid_with_a_refused_sample_is_refused(tmp_path: Path) -> None:
    heading = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    end = "entity,whole,entity - whole (cat),is there a cat ?"
    rows = [f"{item},a red cat,,1,0,{end}" for item in "abc"]
    (tmp_path / "dpg.csv").write_text("\n".join([f"{heading}question_natural_language", *rows]) + "\n")
    bench = read_dpgbench(str(tmp_path / "dpg.csv"), grid=True)
    bad = drawings(bench, CONFIG.seed)[1].seeds[2]
    model = Picky("dog", lambda seed: seed == bad)
    draw(bench, lambda: model, str(tmp_path / "grids"), replace(CONFIG, batch_size=8), EXECUTION)
    assert list(pixels(tmp_path / "grids")) == ["a.png", "c.png"]


def test_a_real_model_with_a_nan_word_draws_the_other_pictures(tmp_path: Path) -> None:
    def load(spoiled: bool) -> ShowoModel:
        model = ShowoModel.load(ROOT / "checkpoints/tiny_showo")
        if spoiled:
            assert model.collator is not None
            (word,) = model.collator.tokenizer("blue", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                model.showo.model.embed_tokens.weight[word] = torch.nan
        return model

    batch = drawings(benchmark(tmp_path, samples=1), seed=0)[:4]
    sound = Painter(lambda: load(False), CONFIG, "cpu")(batch)
    spoiled = Painter(lambda: load(True), CONFIG, "cpu")(batch)
    reason = "showo: NaN or infinity in the logits of the codes"
    assert spoiled == [(path, reason if "blue" in WORDS[n] else data) for n, (path, data) in enumerate(sound)]
    assert [isinstance(data, str) for _, data in spoiled] == [False, True, False, False]


class Doubter(torch.nn.Module):
    """Says yes, and refuses questions that hold a word."""

    geometry = Geometry(8, "squash")
    asked = 0

    def __init__(self, word: str = "dog") -> None:
        super().__init__()
        self.word = word

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"pixels": pixels}

    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        self.asked += len(questions)
        return refuse(["yes"] * len(questions), [self.word in text for text in questions])


def questions(folder: Path, times: int = 1) -> tuple[POPE, Pictures]:
    Image.new("RGB", (8, 8)).save(folder / "picture.png")
    texts = [(group, f"is there a {name}?") for group in SETS for name in ("cat", "dog")] * times
    items = tuple(
        Item(f"{n}", group, text, (PictureQuestion(text, "yes"),), (f"{n}",), source="picture.png")
        for n, (group, text) in enumerate(texts)
    )
    return POPE(items), Pictures("", {(item.key, 0): str(folder / "picture.png") for item in items}, (), ())


def test_refused_answers_are_unscored_and_asked_once_more_by_the_next_run(tmp_path: Path) -> None:
    bench, pictures = questions(tmp_path)

    def ask(model: Doubter) -> list[Any]:
        load: Any = lambda device: Examinee(lambda: model, device, 4, 8)  # noqa: E731
        return look(bench, pictures, load, (), str(tmp_path / "work"), SHAPES["pope"], EXECUTION, 3)

    records = ask(Doubter())
    assert [record.unscored for record in records] == [None, UNSCORED] * 3
    assert records[1].why == (REASON,)
    totals = bench.totals(records, "rules alone", 10)
    assert (totals.unscored, totals.missing, totals.score(), totals.floor) == (3, 0, 1.0, 0.5)
    assert f"3 unscored: {UNSCORED}, such as item '1', sample 0: {REASON}" in totals.notes
    assert len(kept_records(str(tmp_path / "work"), SHAPES["pope"])) == 3
    sound = Doubter("nothing")
    assert [record.unscored for record in ask(sound)] == [None] * 6
    assert sound.asked == 3


def test_a_model_that_answers_nothing_ends_the_stage(tmp_path: Path) -> None:
    bench, pictures = questions(tmp_path)
    load: Any = lambda device: Examinee(lambda: Doubter(""), device, 4, 8)  # noqa: E731
    with pytest.raises(AllRefusedError, match="none of 6 items can be scored: tiny: NaN"):
        look(bench, pictures, load, (), str(tmp_path / "work"), SHAPES["pope"], EXECUTION, 3)


def test_a_model_that_answers_nothing_ends_the_stage_early(tmp_path: Path) -> None:
    bench, pictures = questions(tmp_path, 40)
    model = Doubter("")
    load: Any = lambda device: Examinee(lambda: model, device, 4, 8)  # noqa: E731
    with pytest.raises(AllRefusedError, match="none of the first 33 of 240 items can be scored, so the rest was not"):
        look(bench, pictures, load, (), str(tmp_path / "work"), SHAPES["pope"], EXECUTION, 3)
    assert model.asked == 33


def test_rows_whose_pictures_cannot_be_encoded_are_refused_too(tmp_path: Path) -> None:
    class Blind(Doubter):
        def encode(self, pixels: Tensor) -> dict[str, Tensor]:
            return refuse(super().encode(pixels), [row == 0 for row in range(len(pixels))])

    bench, pictures = questions(tmp_path)
    load: Any = lambda device: Examinee(Blind, device, 4, 8)  # noqa: E731
    records = look(bench, pictures, load, (), str(tmp_path / "work"), SHAPES["pope"], EXECUTION, 3)
    # Three questions at once: the first picture of each call, and every dog.
    assert [record.unscored is None for record in records] == [False, False, True, False, True, False]
    with pytest.raises(NonFiniteOutputError) as error:
        after_encoding(lambda: refuse("abc", [False, True, False]), lambda text: refuse(text, [True, True, False]))
    assert (error.value.faults, error.value.rows, error.value.result) == ({0: REASON, 1: REASON}, 3, "abc")


def picky(oracle: UnifiedModel, every: int = 4) -> Any:
    """A model that is right in everything, but refuses every so many-th row of each call, from the first."""
    model: Any = type(oracle)()

    def refusing(call: Callable[..., Any]) -> Callable[..., Any]:
        def refused(*arguments: Any) -> Any:
            result = call(*arguments)
            return refuse(result, [row % every == 0 for row in range(len(result))])

        return refused

    for name in ("generate", "reconstruct", "answer"):
        setattr(model, name, refusing(getattr(model, name)))
    return model


def test_the_worlds_own_scores_count_what_is_refused_as_wrong(
    oracle: UnifiedModel, config: EvaluationConfig, tmp_path: Path
) -> None:
    small = replace(config, prompts_per_task=4, understanding_questions=24, reconstructions=12, bootstrap=50)
    lines: list[str] = []
    sound = evaluate_all(oracle, small, tmp_path / "sound")
    found = evaluate_all(picky(oracle), small, tmp_path / "picky", lines.append)
    assert load_all(tmp_path / "picky") == found
    drawn, answers, redrawn = found.minigeneval, found.understanding, found.reconstruction
    assert (drawn.refused, answers.refused, redrawn.refused) == (6, 7, 3)
    assert [line.endswith(f", {n} refused") for line, n in zip(lines, (6, 7, 3), strict=True)] == [True] * 3
    assert {(r.unscored, r.why, r.seen) for r in drawn.records[::4]} == {(UNSCORED, (REASON,), ())}
    assert drawn.records[1] == sound.minigeneval.records[1]
    assert (minigeneval.load_images(tmp_path / "picky")[::4] == 0).all()
    for name in ("overall", "counting"):
        assert drawn.scores[name].value == pytest.approx(sound.minigeneval.scores[name].value - 0.25)
        assert drawn.scores[name].prompts == sound.minigeneval.scores[name].prompts
    # Each kind is asked by itself, and one question of another kind has become one about a number.
    assert answers.accuracy.value == pytest.approx(17 / 24)
    assert answers.kinds["color"].value == 0.75
    assert redrawn.recall["class"].value == pytest.approx(0.75 * sound.reconstruction.recall["class"].value, abs=0.05)
    assert redrawn.psnr == sound.reconstruction.psnr
    assert (redrawn.pictures[0].refused, redrawn.pictures[0].error) == (REASON, None)
    assert redrawn.objects_per_picture > 2

    assert compare_all(found, sound, 50).understanding["color"].value == 0.25
    shown = read_scores(tmp_path / "picky", tmp_path / "sound", ("base", "RecA"), 50)
    assert shown.notes == tuple(
        f"{what}, base: {n} of {count} have no score and count as wrong, such as: {REASON}."
        for what, n, count in (("MiniGenEval", 6, 24), ("understanding", 7, 24), ("reconstruction", 3, 12))
    )
    assert (shown.prompt_grid.rows[0].pictures[0].note, shown.prompt_grid.rows[0].pictures[1].note) == (UNSCORED, "")
    assert [picture.note for picture in shown.reconstruction_grid.rows[0].pictures] == ["", REASON, ""]


def test_a_model_that_refuses_all_of_a_part_ends_its_scoring(
    oracle: UnifiedModel, config: EvaluationConfig, tmp_path: Path
) -> None:
    with pytest.raises(AllRefusedError) as error:
        evaluate_all(picky(oracle, 1), replace(config, prompts_per_task=2), tmp_path)
    assert str(error.value) == f"none of 12 pictures can be scored: {REASON}; {MEND}"


class PickyEditor(bagel_tiny.BagelModel):
    """Edits like the world itself, and refuses the first two edits."""

    def edit(
        self, pixels: Tensor, instructions: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        targets = [torch.from_numpy(render(edit.target)) for edit in miniedit.held_out_edits(len(seeds))]
        return refuse(torch.stack(targets).permute(0, 3, 1, 2), [row < 2 for row in range(len(seeds))])


def test_refused_edits_count_as_nothing_done_and_nothing_kept(tmp_path: Path) -> None:
    model = bagel_tiny.tiny_model()
    model.__class__ = PickyEditor
    scorer, config = Scorer.load(ROOT / "checkpoints/minigeneval_scorer"), EditConfig(count=12, bootstrap=50)
    result, images = miniedit.evaluate(model, scorer, config)
    assert result.refused == 2
    assert not images[:2].any()
    values = miniedit.by_kind(result.records, "success")
    assert sorted(value for column in values.values() for value in column) == [0.0] * 2 + [1.0] * 10
    kept = [value for column in miniedit.by_kind(result.records, "kept").values() for value in column]
    edits = miniedit.held_out_edits(12)
    assert kept.count(0.0) == sum(len(edit.source.objects) > 1 for edit in edits[:2])
    assert len(kept) == sum(len(edit.source.objects) > 1 for edit in edits)
    miniedit.save(result, images, tmp_path)
    assert msgspec.json.encode(miniedit.load(tmp_path)) == msgspec.json.encode(result)
    edited = read_edits(tmp_path, tmp_path, ("base", "RecA"), 50)
    assert edited.notes[0] == f"MiniEdit, base: 2 of 12 have no score and count as wrong, such as: {REASON}."
    assert edited.grid.rows[0].pictures[1].note == UNSCORED
