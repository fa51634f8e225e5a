"""Yes or no by the first token: batches, cells, NaN, tokens, and what loading refuses; on a tiny LLaVA."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from actor_stand_in import spread
from PIL import Image
from tiny_judges import VLM_WORDS, save_clip, save_vlm

from reca.config import ExecutionConfig
from reca.evaluation import looking
from reca.evaluation.catalog import SHAPES
from reca.evaluation.dpgbench import DPGBench, Question
from reca.evaluation.looking import look
from reca.evaluation.picture_files import cells_of, find_pictures
from reca.evaluation.records import BenchmarkError, Item
from reca.evaluation.tally import AllRefusedError
from reca.evaluation.vqa import YesNoJudge, answer_tokens

QUESTIONS = ("is there a cat ?", "is there a red dog ?", "a cat ?", "is there a dog or a cat ?")


def asked(texts: Sequence[str]) -> tuple[Question, ...]:
    return tuple(Question(number, text, (0,), "entity - whole", number) for number, text in enumerate(texts, 1))


def pictures(count: int, side: int = 40) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)
    return [Image.fromarray(c).resize((side, side), Image.Resampling.NEAREST) for c in colors]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> YesNoJudge:
    loaded = YesNoJudge.load(str(save_vlm(tmp_path_factory.mktemp("vlm"), seed=18)), batch_size=3)
    with torch.no_grad():
        # A fresh network hardly looks beyond its last token; one that does says yes to some and no to others.
        loaded.model.lm_head.weight *= 50
        loaded.model.model.multi_modal_projector.linear_2.weight *= 30
        for layer in loaded.model.model.language_model.layers:
            layer.self_attn.v_proj.weight *= 30
            layer.self_attn.o_proj.weight *= 30
    return loaded


def test_answers_follow_the_logits_of_the_first_token(judge: YesNoJudge) -> None:
    drawn = pictures(6)
    given = judge.answer(drawn, ["is there a cat ?"] * 6)
    for picture, answer in zip(drawn, given, strict=True):
        content = [{"type": "image", "image": picture}, {"type": "text", "text": "is there a cat ? Answer yes or no."}]
        inputs = judge.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        with torch.no_grad():
            last = judge.model(**{name: torch.as_tensor(np.asarray(value)) for name, value in inputs.items()}).logits
        shares = last[0, -1].softmax(dim=0)
        yes, no = (
            sum(float(shares[VLM_WORDS.index(word)]) for word in pair) for pair in (("yes", "Yes"), ("no", "No"))
        )
        assert answer == ("yes" if yes > no else "no")


def test_batches_do_not_change_answers_and_every_question_is_answered(judge: YesNoJudge) -> None:
    drawn = pictures(3)
    questions = [asked(QUESTIONS), asked(QUESTIONS[:1]), asked(QUESTIONS[1:3])]
    seen = judge.see(questions, drawn)
    alone = [
        ({q.id: judge.answer([picture], [q.text])[0] for q in row},)
        for picture, row in zip(drawn, questions, strict=True)
    ]
    assert seen == alone
    assert {answer for (row,) in seen for answer in row.values()} == {"yes", "no"}


def test_a_grid_is_asked_cell_by_cell(judge: YesNoJudge) -> None:
    corners = pictures(4)
    grid = Image.new("RGB", (80, 80))
    for corner, place in zip(corners, ((0, 0), (40, 0), (0, 40), (40, 40)), strict=True):
        grid.paste(corner, place)
    assert [np.asarray(cell).tolist() for cell in cells_of(grid, 40)] == [np.asarray(c).tolist() for c in corners]
    by_cell = YesNoJudge(judge.model, judge.processor, batch_size=5, cell=40).see([asked(QUESTIONS)], [grid])[0]
    assert by_cell == tuple(judge.see([asked(QUESTIONS)], [corner])[0][0] for corner in corners)


def test_nan_logits_leave_the_picture_unscored(judge: YesNoJudge) -> None:
    bench = DPGBench((Item("a", "", "a cat", asked(QUESTIONS), ("a_0.png",)),))
    weight = judge.model.lm_head.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[2, 0] = torch.nan
        (seen,) = judge.see([asked(QUESTIONS)], pictures(1))
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    totals = bench.totals([bench.decide(bench.items[0], 0, seen)], "tiny", 10)
    assert totals.unscored == 1
    assert totals.score() is None
    assert totals.benchmark.startswith("DPG with judge tiny")


def test_a_judge_of_nan_alone_ends_the_stage(
    judge: YesNoJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "spread", spread)
    items = tuple(Item(f"{n}", "", "a cat", asked(QUESTIONS), (f"{n}.png",)) for n in range(4))
    for item, picture in zip(items, pictures(4), strict=True):
        picture.save(tmp_path / item.pictures[0])
    found = find_pictures(str(tmp_path), items)
    weight = judge.model.lm_head.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[2, 0] = torch.nan
        with pytest.raises(AllRefusedError, match="none of 4 items can be scored: an answer is neither yes nor no; "):
            look(DPGBench(items), found, lambda _: judge, (), str(tmp_path), SHAPES["dpgbench"], ExecutionConfig(), 2)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_tokens_of_yes_and_no_are_told_apart(judge: YesNoJudge) -> None:
    yes, no = answer_tokens(judge.processor.tokenizer)
    assert [VLM_WORDS[token] for token in yes] == ["yes", "Yes"]
    assert [VLM_WORDS[token] for token in no] == ["no", "No"]
    # A blank that is a token of its own begins both words and says nothing.
    pieces = SimpleNamespace(unk_token_id=None, encode=lambda text, **_: [ord(letter) for letter in text])
    assert answer_tokens(pieces) == ([ord("Y"), ord("y")], [ord("N"), ord("n")])
    with pytest.raises(BenchmarkError, match="no first token of its own"):
        answer_tokens(SimpleNamespace(unk_token_id=0, encode=lambda text, **_: [0]))


def test_loading_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="no readable vision-language model"):
        YesNoJudge.load(str(tmp_path / "absent"))
    with pytest.raises(BenchmarkError, match="no readable vision-language model"):
        YesNoJudge.load(str(save_clip(tmp_path / "clip")))
