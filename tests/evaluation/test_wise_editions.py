"""Prompts of one edition of WISE read as another, and judge prompts of another: told by what they hold, and refused."""

import json
import re
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from goldens import PROMPTS, needs_prompts

from reca.evaluation import wise_editions
from reca.evaluation.catalog import WISE_ENDINGS, WISE_FILES, read_benchmark
from reca.evaluation.records import BenchmarkError
from reca.evaluation.run_config import Reading
from reca.evaluation.wise_editions import DIGESTS, EDITIONS, Row, check_edition, check_judge_prompt


def read(folder: Path, rows: list[dict[str, Any]], edition: str) -> list[str]:
    """Groups of the prompts in one file."""
    (folder / "wise.json").write_text(json.dumps(rows))
    return [item.group for item in read_benchmark(Reading("wise", 1, edition), str(folder / "wise.json")).items]


def row(identity: int, category: str) -> dict[str, Any]:
    return {"prompt_id": identity, "Prompt": f"prompt {identity}", "Explanation": "e", "Category": category}


def test_categories_that_another_edition_gives_are_refused(tmp_path: Path) -> None:
    verified = [row(7, "Cultural knowledge"), row(521, "Space"), row(700, "Biology")]
    assert read(tmp_path, verified, "verified") == ["CULTURE", "SPACE", "BIOLOGY"]
    message = (
        r"wise\.json, row 2: prompt_id 521 has the Category 'Space', which the first edition does not give this id; "
        r"so tell 2 of 3 prompts, .* set wise\.edition=verified, or get the first edition from data"
    )
    with pytest.raises(BenchmarkError, match=message):
        read(tmp_path, verified, "")
    first = [row(521, "time"), row(748, "Ecology")]
    assert read(tmp_path, first, "rewritten") == ["TIME", "BIOLOGY"]
    with pytest.raises(BenchmarkError, match=r"tell 1 of 2 prompts, .* leave wise\.edition empty, or get WISE_V"):
        read(tmp_path, first, "verified")
    with pytest.raises(BenchmarkError, match=r"no edition has them so; get the first edition"):
        read(tmp_path, [*first, row(999, "Space")], "")


@pytest.mark.parametrize("edition", WISE_ENDINGS)
def test_what_tells_nothing_is_taken_as_it_is_named(edition: str, tmp_path: Path) -> None:
    told_alike = [row(3, "Cultural knowledge"), row(900, "something else"), row(450, "")]
    del told_alike[2]["Category"]
    assert len(read(tmp_path, told_alike, edition)) == 3


@needs_prompts
@pytest.mark.parametrize(("told", "true"), permutations(WISE_ENDINGS, 2))
@pytest.mark.parametrize("name", [*WISE_FILES, "all"])
def test_published_files_of_another_edition_are_refused(told: str, true: str, name: str, tmp_path: Path) -> None:
    names = WISE_FILES if name == "all" else (name,)
    files = [PROMPTS / f"wise/{part}{WISE_ENDINGS[true]}.json" for part in names]
    rows = [entry for file in files for entry in json.loads(file.read_text())]
    assert len(read(tmp_path, rows, true)) == len(rows)
    mend = f"set wise.edition={true}" if true else "leave wise.edition empty"
    with pytest.raises(BenchmarkError, match=rf"prompts, .*; {mend}, or get "):
        read(tmp_path, rows, told)


@needs_prompts
def test_every_published_prompt_tells_its_editions_alone() -> None:
    texts: dict[str, dict[int, str]] = {}
    for edition, ending in WISE_ENDINGS.items():
        files = [PROMPTS / f"wise/{name}{ending}.json" for name in WISE_FILES]
        rows = [entry for file in files for entry in json.loads(file.read_text())]
        texts[edition] = {entry["prompt_id"]: entry["Prompt"] for entry in rows}
    refused: dict[tuple[str, str], int] = {}
    for true, told in permutations(WISE_ENDINGS, 2):
        for identity, text in texts[true].items():
            try:
                check_edition([Row("here", identity, text, "")], told, "there")
                assert texts[told][identity].strip() == text.strip()
            except BenchmarkError:
                refused[true, told] = refused.get((true, told), 0) + 1
    assert refused == {pair: 668 if "rewritten" not in pair else 1000 for pair in permutations(WISE_ENDINGS, 2)}


def test_a_prompt_that_an_edition_is_known_to_have_is_refused_as_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [["-"] * 3, ["09609023", "-", "09609023"], ["-", "-", "a1115b88"]]
    monkeypatch.setattr(wise_editions, "_digests", lambda: known)
    rows = [row(1, ""), row(2, ""), row(3, "")]
    assert len(read(tmp_path, rows[:2], "")) == len(read(tmp_path, rows[:2], "verified")) == 2
    with pytest.raises(
        BenchmarkError, match=r"prompt_id 3 has the text of WISE_Verified; .* set wise\.edition=verified"
    ):
        read(tmp_path, rows, "")
    with pytest.raises(BenchmarkError, match=r"prompt_id 2 has the text of the first edition; so tell 2 of 3 prompts"):
        read(tmp_path, rows, "rewritten")


def test_the_digests_are_of_a_thousand_prompts_in_three_editions() -> None:
    lines = DIGESTS.read_text().splitlines()
    assert len(lines) == 1000
    assert all(re.fullmatch("[0-9a-f]{8}( [0-9a-f]{8}){2}", line) for line in lines)
    assert len(EDITIONS) == 3
    # The shortest witness there is: the rewritten prompt of id 1.
    with pytest.raises(BenchmarkError, match=r"prompt_id 1 has the text of the first edition with rewritten prompts"):
        check_edition([Row("here", 1, " Mooncakes.\n", "")], "", "there")


PLACES = "PROMPT: <prompt> EXPLANATION: <explanation>"
THREE = f"{PLACES}\n**Consistency (0-2):**\n**Realism (0-2):**\n**Aesthetic Quality (0-2):**\nA score of '2' is rare."
LINES = f"{PLACES}\nAnswer with three lines, each a score:\nConsistency: 2\nRealism: 1\nAesthetic Quality: 0"
ONE = f"{PLACES}\nLack of aesthetic quality does not matter.\n**Score: 1**\nif right, else\n**Score: 0**"
TICKS = f"{PLACES}\nReturn only `Score: 0` or `score : 1`."


@pytest.mark.parametrize("text", [ONE, TICKS])
def test_a_judge_prompt_for_one_score_is_refused_for_the_first_edition(text: str) -> None:
    message = r"^j\.txt: asks for one score, 0 or 1, as .* WISE_Verified does, .*; set wise\.edition=verified, or get"
    with pytest.raises(BenchmarkError, match=message):
        check_judge_prompt(text, verified=False, place="j.txt")
    check_judge_prompt(text, verified=True, place="j.txt")


@pytest.mark.parametrize("text", [THREE, LINES.replace("score:", "score")])
def test_a_judge_prompt_for_three_scores_is_refused_for_the_verified_edition(text: str) -> None:
    message = r"^j\.txt: asks for consistency, realism, aesthetic quality, .*; leave wise\.edition empty, or get"
    with pytest.raises(BenchmarkError, match=message):
        check_judge_prompt(text, verified=True, place="j.txt")
    check_judge_prompt(text, verified=False, place="j.txt")


@pytest.mark.parametrize("verified", [False, True])
@pytest.mark.parametrize("text", [PLACES, f"{LINES}\nOverall score: 1", f"{THREE}\nThen Score: N", LINES])
def test_a_judge_prompt_that_asks_for_neither_or_both_is_taken(text: str, verified: bool) -> None:
    check_judge_prompt(text, verified=verified, place="j.txt")
