import math
from pathlib import Path

import pytest
from test_benchmark import BENCH, JUDGE, RECORDS

from reca.evaluation.geneval import Prompt
from reca.evaluation.geneval_benchmark import Seen
from reca.evaluation.records import BenchmarkError, load_records, save_records


def test_totals_follow_from_saved_records(tmp_path: Path) -> None:
    url = str(tmp_path / "records.jsonl")
    save_records(RECORDS, url)
    loaded = load_records(url, Prompt, Seen)
    assert len(loaded) == len(RECORDS)
    assert loaded[:5] == RECORDS[:5]
    assert all(math.isnan(value) for value in loaded[5].seen[0].logits or ())
    assert BENCH.totals(loaded, JUDGE) == BENCH.totals(RECORDS, JUDGE)
    again = [BENCH.decide(BENCH.items[int(r.item)], r.sample, r.seen) for r in loaded]
    assert [(r.scores, r.unscored) for r in again] == [(r.scores, r.unscored) for r in RECORDS]


def test_unreadable_records_are_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    save_records(RECORDS[:1], str(path))
    path.write_text(path.read_text() + '{"item": "x"}\n')
    with pytest.raises(BenchmarkError, match=r"records\.jsonl, line 2: not a record: Object missing required field"):
        load_records(str(path), Prompt, Seen)
    with pytest.raises(BenchmarkError, match="no readable records"):
        load_records(str(tmp_path / "nowhere.jsonl"), Prompt, Seen)
