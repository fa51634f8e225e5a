"""Prompts of one edition of WISE read as another: told by categories and by known texts, and refused."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from goldens import PROMPTS, needs_prompts

from reca.evaluation.catalog import WISE_ENDINGS, WISE_FILES, read_benchmark
from reca.evaluation.records import BenchmarkError
from reca.evaluation.run_config import Reading


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
