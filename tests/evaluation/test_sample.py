"""The sample of questions about the built-in world: read as GQA's files are, and answered by its own labels."""

from pathlib import Path

import pytest

from reca.evaluation.answering import question_pictures
from reca.evaluation.catalog import read_benchmark
from reca.evaluation.picture_files import read_picture
from reca.evaluation.run_config import Reading
from reca.evaluation.sample import main


def test_the_sample_is_read_as_gqa(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "sample"), "--count", "12"]) == 0
    assert capsys.readouterr().out.startswith("10 questions in ")
    bench = read_benchmark(Reading("gqa"), str(tmp_path / "sample/questions.json"))
    assert {item.group for item in bench.items} == {"verify", "query"}
    found = question_pictures(bench, str(tmp_path / "sample/pictures"))
    pictures = [read_picture(found.found[item.key, 0]) for item in bench.items]
    assert {picture.size for picture in pictures} == {(64, 64)}
    records = [bench.decide(item, 0, (item.asked[0].label,)) for item in bench.items]
    totals = bench.totals(records, "rules alone", 10)
    assert totals.score() == 1.0
    assert totals.benchmark == "sample about the built-in world, GQA's format, 10 items"


def test_an_empty_choice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "sample"), "--count", "0"])
    assert "at least one" in capsys.readouterr().err
    assert not (tmp_path / "sample").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "file"), "--count", "1"])
    assert f"cannot write to {tmp_path / 'file'}" in capsys.readouterr().err
