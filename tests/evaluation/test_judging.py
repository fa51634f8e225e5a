"""Pictures in folders, a judge on the loopback interface, records and totals."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from loopback_judge import LoopbackJudge, loopback_judge, status
from PIL import Image

from reca.evaluation import dpgbench, gedit, imgedit, wise
from reca.evaluation.benchmark import Benchmark
from reca.evaluation.geneval import Prompt, Requirement
from reca.evaluation.geneval_benchmark import GenEval, Sighting
from reca.evaluation.judge_client import JudgeClient, JudgeConfig, JudgeError
from reca.evaluation.judging import (
    answers_by_cell,
    dpgbench_questions,
    gedit_questions,
    imgedit_questions,
    judge_pictures,
    one_reply,
    two_replies,
    wise_questions,
)
from reca.evaluation.picture_files import Pictures, find_pictures
from reca.evaluation.records import BenchmarkError, Item

NAMES = ("A", "B", "C")
EDITS = imgedit.ImgEdit(
    tuple(
        Item(
            str(n), "add", f"edit {n}", imgedit.Edit(f"edit {n}", "add", NAMES), (f"{n}.png",), source="dir/source.png"
        )
        for n in range(5)
    )
)
PROMPTS = {"add": "Rate <edit_prompt>."}


def client(judge: LoopbackJudge, tmp_path: Path, concurrency: int = 8) -> JudgeClient:
    config = JudgeConfig(
        base_url=judge.url,
        model="loopback",
        key_variable="",
        first_wait_s=0.0,
        attempts=2,
        concurrency=concurrency,
    )
    return JudgeClient(config, str(tmp_path / "cache"))


def draw(path: Path, size: tuple[int, int] = (8, 6), color: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def sent(judge: LoopbackJudge, request: int, picture: int) -> Image.Image:
    url = judge.asked[request]["messages"][-1]["content"][1 + picture]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))


def test_edits_are_judged_with_their_sources(tmp_path: Path) -> None:
    draw(tmp_path / "sources/dir/source.png", color="blue")
    for number in range(4):
        draw(tmp_path / f"made/{number}.png")
    (tmp_path / "made/3.png").write_text("no picture")

    def behave(body: dict[str, Any]) -> Any:
        text = body["messages"][-1]["content"][0]["text"]
        return {
            "Rate edit 0.": "Brief reasoning: good.\nA: 5\nB: 4\nC: 3",
            "Rate edit 1.": "I'm sorry, I can't help with that.",
            "Rate edit 2.": "A: 50\nB: 40\nC: 30",
        }[text]

    pictures = find_pictures(str(tmp_path / "made"), EDITS.items)
    questions = imgedit_questions(PROMPTS, str(tmp_path / "sources"))
    with loopback_judge(behave) as judge:
        records = judge_pictures(EDITS, client(judge, tmp_path), pictures, questions, one_reply)
        first = judge.texts().index("Rate edit 0.")
        assert sent(judge, first, 0).getpixel((0, 0)) == (0, 0, 255)
        assert sent(judge, first, 1).getpixel((0, 0)) == (255, 0, 0)
        again = judge_pictures(EDITS, client(judge, tmp_path), pictures, questions, one_reply)
        assert len(judge.asked) == 3
    assert again == records
    assert [record.item for record in records] == ["0", "1", "2", "3"]
    assert records[0].scores == {"score": 4.0}
    assert records[1].seen.startswith("I'm sorry")
    assert [record.unscored for record in records[1:]] == [
        "the reply does not hold the asked scores",
        "the reply does not hold the asked scores",
        "a picture cannot be read",
    ]
    totals = EDITS.totals(records, "loopback", resamples=20)
    assert (totals.pictures, totals.unscored, totals.missing) == (4, 3, 1)


def test_unreadable_replies_may_be_asked_for_again(tmp_path: Path) -> None:
    draw(tmp_path / "sources/dir/source.png")
    draw(tmp_path / "made/0.png")
    pictures = find_pictures(str(tmp_path / "made"), EDITS.items)
    questions = imgedit_questions(PROMPTS, str(tmp_path / "sources"))
    with loopback_judge(lambda body: "hm", lambda body: "A: 5\nB: 4\nC: 3", lambda body: status(500)) as judge:
        once = judge_pictures(EDITS, client(judge, tmp_path), pictures, questions, one_reply)
        assert once[0].unscored is not None
        twice = judge_pictures(EDITS, client(judge, tmp_path), pictures, questions, one_reply, turns=2)
        assert twice[0].scores == {"score": 4.0}
        assert len(judge.asked) == 2
        # One broken endpoint leaves an item unscored, with the reason; nothing is made up.
        (tmp_path / "made/0.png").unlink()
        draw(tmp_path / "made/1.png")
        pictures = find_pictures(str(tmp_path / "made"), EDITS.items)
        broken = judge_pictures(EDITS, client(judge, tmp_path), pictures, questions, one_reply, turns=2)
    assert (broken[0].scores, broken[0].unscored) == ({}, "the judge gave no reply")
    assert broken[0].why == ("status 500: busy, 2 attempts",)


def test_gedit_asks_twice_and_resizes_to_the_source(tmp_path: Path) -> None:
    folder = "fullset/ps_human/cn"
    edit = gedit.Edit("smile", "ps_human", "cn", True)
    bench = gedit.GEdit((Item("k", "ps_human", "smile", edit, (f"{folder}/k.png",), f"{folder}/k_SRCIMG.png"),), "cn")
    draw(tmp_path / f"{folder}/k_SRCIMG.png", (10, 4))
    draw(tmp_path / f"{folder}/k.png", (32, 32))

    def behave(body: dict[str, Any]) -> str:
        both = len(body["messages"][-1]["content"]) == 3
        return json.dumps({"score": [8, 4] if both else [9, 10], "reasoning": "r"})

    pictures = find_pictures(str(tmp_path), bench.items)
    assert (len(pictures.found), pictures.missing, pictures.extra) == (1, (), ())
    questions = gedit_questions("SC <instruction>?", "PQ?", str(tmp_path))
    with loopback_judge(behave) as judge:
        records = judge_pictures(bench, client(judge, tmp_path), pictures, questions, two_replies)
        assert judge.texts() == ["SC smile?", "PQ?"]
        assert [sent(judge, 0, 1).size, sent(judge, 1, 0).size] == [(10, 4), (10, 4)]
    assert records[0].scores == {"O": 6.0, "SC": 4.0, "PQ": 9.0}


def test_wise_asks_with_prompt_and_explanation(tmp_path: Path) -> None:
    asked = wise.Prompt(7, "a round pastry", "a mooncake, not <prompt>")
    bench = wise.WiseVerified((Item("7", "CULTURE", asked.prompt, asked, ("7.png",)),))
    draw(tmp_path / "7.png")
    questions = wise_questions("P: <prompt> E: <explanation>", system="be fair")
    with loopback_judge(lambda body: "Score: 1") as judge:
        records = judge_pictures(
            bench, client(judge, tmp_path), find_pictures(str(tmp_path), bench.items), questions, one_reply
        )
        assert judge.texts() == ["P: a round pastry E: a mooncake, not <prompt>"]
        assert judge.asked[0]["messages"][0]["content"] == "be fair"
    assert records[0].scores == {"score": 1.0}


def test_dpg_questions_are_asked_of_each_cell(tmp_path: Path) -> None:
    asked = tuple(dpgbench.Question(n, f"q{n}?", (n - 1,), "entity - whole", n) for n in (1, 2))
    bench = dpgbench.DPGBench((Item("a", "", "a", asked, ("a.png",)),))
    grid = Image.new("RGB", (16, 16), "red")
    grid.paste("blue", (8, 0, 16, 8))
    grid.save(tmp_path / "a.png")

    def behave(body: dict[str, Any]) -> str:
        url = body["messages"][-1]["content"][1]["image_url"]["url"]
        blue = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).getpixel((0, 0)) == (0, 0, 255)
        first = body["messages"][-1]["content"][0]["text"].startswith("q1?")
        return "No." if blue and first else "Yes"

    pictures = find_pictures(str(tmp_path), bench.items)
    with loopback_judge(behave) as judge:
        records = judge_pictures(bench, client(judge, tmp_path), pictures, dpgbench_questions(8), answers_by_cell)
        # Three of the four cells are equal, and what was answered is not asked again.
        assert len(judge.asked) == 4
        assert judge.texts()[0] == "q1? Answer with one word, yes or no."
        assert sent(judge, 0, 0).size == (8, 8)
        whole = judge_pictures(bench, client(judge, tmp_path), pictures, dpgbench_questions(), answers_by_cell)
    # Of the blue cell, the second cell in reading order, nothing counts.
    assert records[0].seen[1] == {1: "No.", 2: "Yes"}
    assert records[0].scores == {"score": 75.0}
    assert whole[0].seen == ({1: "Yes", 2: "Yes"},)


def test_judge_prompts_without_place_holders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="prompt 'add': place-holder <edit_prompt> is missing"):
        imgedit_questions({"add": "Rate it."}, "x")
    with pytest.raises(BenchmarkError, match="place-holder <explanation> is missing"):
        wise_questions("<prompt>")
    with pytest.raises(BenchmarkError, match="GEdit consistency prompt: place-holder <instruction>"):
        gedit_questions("SC?", "PQ?", "x")


def many(folder: Path, readable: bool = True) -> tuple[imgedit.ImgEdit, Pictures]:
    """64 edits with pictures, or with files that hold none."""
    draw(folder / "source.png")
    edited = folder / "edited.png"
    edited.write_bytes((folder / "source.png").read_bytes() if readable else b"no picture")
    items = tuple(
        Item(f"{n}", "add", f"{n}", imgedit.Edit(f"{n}", "add", NAMES), (f"{n}.png",), source="source.png")
        for n in range(64)
    )
    return imgedit.ImgEdit(items), Pictures("", {(item.key, 0): str(edited) for item in items}, (), ())


def judged(judge: LoopbackJudge, folder: Path, place: Path, readable: bool = True) -> list[Any]:
    """What comes of 64 edits, asked about one after another."""
    bench, pictures = many(folder, readable)
    questions = imgedit_questions({"add": "<edit_prompt>"}, str(folder))
    return judge_pictures(bench, client(judge, place, 1), pictures, questions, one_reply)


def test_a_judge_of_which_no_reply_can_be_read_ends_the_run_early(tmp_path: Path) -> None:
    message = (
        r"^none of the first 32 of 64 pictures can be scored, so the rest was not tried: the reply does not hold the "
        r"asked scores: asked for one whole number from 1 to 5 under 'A', got \[\]; see the replies, which are kept in "
        rf"{tmp_path}/cache; another judge \(judge\.model\), .* \(--context replies=FOLDER\); then run the same command"
    )
    with loopback_judge(lambda body: "I cannot judge this.") as judge:
        with pytest.raises(JudgeError, match=message):
            judged(judge, tmp_path, tmp_path)
        # From all over the set, not its first items.
        assert judge.texts() == [f"{n}" for n in range(0, 64, 2)]
        with pytest.raises(JudgeError, match="none of the first 32 of 64"):
            judged(judge, tmp_path, tmp_path)
        assert len(judge.asked) == 32
        judge.behaviours = [lambda body: "A: 5\nB: 4\nC: 3"]
        records = judged(judge, tmp_path, tmp_path / "other")
    assert [record.item for record in records] == [f"{n}" for n in range(64)]
    assert all(record.scores == {"score": 4.0} for record in records)


def test_one_reply_that_can_be_read_lets_the_run_go_on(tmp_path: Path) -> None:
    def behave(body: dict[str, Any]) -> str:
        return "A: 5\nB: 4\nC: 3" if body["messages"][-1]["content"][0]["text"] == "62" else "hm"

    with loopback_judge(behave) as judge:
        records = judged(judge, tmp_path, tmp_path)
    assert [record.item for record in records if record.unscored is None] == ["62"]
    assert len(records) == 64


def test_an_endpoint_that_gives_no_reply_ends_the_run_early_and_is_asked_again(tmp_path: Path) -> None:
    with loopback_judge(lambda body: status(400, "no pictures, please")) as judge:
        with pytest.raises(
            JudgeError, match=r"32 of 64 .*: the judge gave no reply: status 400: no pictures, please; "
        ):
            judged(judge, tmp_path, tmp_path)
        judge.behaviours = [lambda body: "A: 5\nB: 4\nC: 3"]
        assert len(judged(judge, tmp_path, tmp_path)) == 64


def test_what_a_published_script_reads_and_what_is_not_shown_end_nothing(tmp_path: Path) -> None:
    with loopback_judge(lambda body: "A: 50\nB: 40\nC: 30") as judge:
        records = judged(judge, tmp_path, tmp_path)
        assert {record.unscored for record in records} == {"the reply does not hold the asked scores"}
        records = judged(judge, tmp_path, tmp_path / "other", readable=False)
        assert {record.unscored for record in records} == {"a picture cannot be read"}
        assert len(judge.asked) == 64


CAT = Item("0", "single_object", "a cat", Prompt("single_object", "a cat", (Requirement("cat", 1),)), ("0.png",))
EDIT = Item("k", "ps_human", "smile", gedit.Edit("smile", "ps_human", "cn", True), ("k.png",), "k_SRCIMG.png")
PROMPT = Item("7", "CULTURE", "p", wise.Prompt(7, "p", "e"), ("7.png",))
ASKED = Item(
    "a", "", "a", tuple(dpgbench.Question(n, f"{n}?", (n - 1,), "entity - whole", n) for n in (1, 2)), ("a.png",)
)
TEN = json.dumps({"score": [10, 10]})


@pytest.mark.parametrize(
    ("bench", "seen", "unjudged"),
    [
        (GenEval((CAT,)), (Sighting("cat", (0, 0, 2, 2), float("nan")),), True),
        (GenEval((CAT,)), (), False),
        (dpgbench.DPGBench((ASKED,)), ({1: "", 2: "perhaps"},), True),
        (dpgbench.DPGBench((ASKED,)), ({1: "", 2: "no"},), False),
        (dpgbench.DPGBench((ASKED,)), ({1: "yes", 2: "no"},), False),
        (EDITS, "I'm sorry, I can't help with that.", True),
        (EDITS, "A: 50", False),
        (EDITS, "A: 5\nB: 4\nC: 3", False),
        (gedit.GEdit((EDIT,), "cn"), gedit.Replies("hm", TEN), True),
        (gedit.GEdit((EDIT,), "cn"), gedit.Replies("7", TEN), False),
        (gedit.GEdit((EDIT,), "cn"), gedit.Replies(TEN, TEN), False),
        (wise.Wise((PROMPT,)), "hm", True),
        (wise.Wise((PROMPT,)), "Consistency: 2 of 2", False),
        (wise.Wise((PROMPT,)), "Consistency\uff1a2", False),
        (wise.Wise((PROMPT,)), "Consistency: 2\nRealism: 2\nAesthetic Quality: 0", False),
        (wise.WiseVerified((PROMPT,)), "hm", True),
        (wise.WiseVerified((PROMPT,)), "the score is 1, score 1", False),
        (wise.WiseVerified((PROMPT,)), "Score: 0", False),
    ],
)
def test_unjudged_is_what_no_reader_can_use(bench: Benchmark[Any, Any], seen: Any, unjudged: bool) -> None:
    assert bench.unjudged(bench.decide(bench.items[0], 0, seen)) is unjudged
