import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from goldens import PROMPTS, needs_prompts

from reca.evaluation import gedit, imgedit
from reca.evaluation.geneval import TASKS
from reca.evaluation.parity_cases import TASK_SIZES
from reca.evaluation.prompt_files import (
    read_dpgbench,
    read_gedit,
    read_geneval,
    read_imgedit,
    read_imgedit_uge,
    read_wise,
    read_wise_verified,
)
from reca.evaluation.records import BenchmarkError

TABLE = [
    {
        "item_id": item,
        "text": f"prompt {item}",
        "keywords": "",
        "proposition_id": str(number),
        "dependency": dependency,
        "category_broad": "entity",
        "category_detailed": "whole",
        "tuple": "entity - whole (x)",
        "question_natural_language": f"{item} {number}?",
    }
    for item, number, dependency in [("a", 1, "0"), ("a", 2, "1"), ("b", 1, "0"), ("b", 2, "1,0")]
]

GEDIT_ROW = {
    "key": "k1",
    "task_type": "ps_human",
    "instruction": "Make\u2028him smile",
    "instruction_language": "cn",
    "Intersection_exist": True,
}


def text(tmp_path: Path, content: str, name: str) -> str:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return str(path)


def table(tmp_path: Path, rows: list[dict[str, str]], name: str = "dpg_bench.csv") -> str:
    path = tmp_path / name
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def lines(tmp_path: Path, rows: list[Any], name: str = "rows.jsonl") -> str:
    return text(tmp_path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), name)


@needs_prompts
def test_geneval_files() -> None:
    short = read_geneval(str(PROMPTS / "geneval/evaluation_metadata.jsonl"))
    rewritten = read_geneval(str(PROMPTS / "geneval/evaluation_metadata_long.jsonl"), samples=12, long_prompts=True)
    assert len(short.items) == short.published
    assert [item.group for item in short.items] == [t for t, n in zip(TASKS, TASK_SIZES, strict=True) for _ in range(n)]
    assert short.items[7].pictures[3] == "00007/samples/0003.png"
    assert len(rewritten.items[0].pictures) == 12
    assert short.edition != rewritten.edition
    asked = [(i.asked.include, i.asked.exclude) for i in short.items]
    assert asked == [(i.asked.include, i.asked.exclude) for i in rewritten.items]


@needs_prompts
def test_imgedit_files() -> None:
    basic = read_imgedit(str(PROMPTS / "imgedit/basic_edit.json"), str(PROMPTS / "imgedit/judge_prompts.json"))
    uge = read_imgedit_uge(str(PROMPTS / "imgedit/uge_edit.json"))
    assert (len(basic.items), len(uge.items)) == (basic.published, uge.published)
    counts = Counter(item.group for item in basic.items)
    assert counts["extract"] == 117
    assert counts["compose"] == 23
    assert set(counts) == set(imgedit.TYPES)
    styles = next(item for item in basic.items if item.group == "style")
    assert styles.asked.criteria == ("Style Fidelity", "Content Preservation", "Rendering Quality")
    assert styles.pictures == (f"{styles.key}.png",)
    assert styles.source is not None
    assert uge.items[0].asked.criteria == ("",)


@needs_prompts
def test_geneval_prompts_of_the_other_kind_are_refused() -> None:
    with pytest.raises(BenchmarkError, match=r"words or more, .* at most 12; .* set geneval\.long_prompts=true"):
        read_geneval(str(PROMPTS / "geneval/evaluation_metadata_long.jsonl"))
    with pytest.raises(BenchmarkError, match=r"begins with 'a photo of', .* set geneval\.long_prompts=false"):
        read_geneval(str(PROMPTS / "geneval/evaluation_metadata.jsonl"), long_prompts=True)


@needs_prompts
def test_wise_files() -> None:
    names = ("cultural_common_sense", "spatio-temporal_reasoning", "natural_science")
    first = read_wise([str(PROMPTS / f"wise/{name}.json") for name in names])
    rewritten = read_wise([str(PROMPTS / f"wise/{name}_rewrite.json") for name in names], rewritten=True)
    verified = read_wise_verified([str(PROMPTS / f"wise/{name}_verified.json") for name in names])
    reca = read_wise([str(PROMPTS / "wise/reca_final_data_with_hints.json")])
    assert [item.prompt for item in first.items] == [item.prompt for item in reca.items]
    assert [item.key for item in first.items] == [str(i) for i in range(1, 1001)]
    counts = [list(Counter(item.group for item in bench.items).values()) for bench in (rewritten, verified)]
    assert counts == [[400, 167, 133, 100, 100, 100], [400, 120, 120, 120, 120, 120]]


def test_dpg_table(tmp_path: Path) -> None:
    url = table(tmp_path, TABLE)
    bench = read_dpgbench(url, samples=2)
    assert [item.key for item in bench.items] == ["a", "b"]
    assert bench.items[0].pictures == ("a_0.png", "a_1.png")
    assert bench.items[1].prompt == "prompt b"
    assert [(q.id, q.parents, q.row) for q in bench.items[1].asked] == [(1, (0,), 2), (2, (1, 0), 3)]
    assert bench.items[0].asked[0].category == "entity - whole"
    assert read_dpgbench(url, grid=True).items[0].pictures == ("a.png",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].update(dependency="7"), "item 'a': question 2 depends on 7, which is not there"),
        (lambda rows: rows[1].update(dependency="-1"), "item 'a': question 2 depends on -1, which is not there"),
        (lambda rows: rows[0].update(dependency="2"), r"item 'a': questions \[1, 2\] depend on each other in a circle"),
        (
            lambda rows: rows[1].update(proposition_id="1"),
            r"row 2: proposition_id 1 repeats .* row 1",
        ),
        (lambda rows: rows[1].update(dependency=""), "row 2 .item 'a'.: dependency is ''"),
        (lambda rows: rows[2].update(proposition_id="x"), "row 3 .item 'b'.: proposition_id is 'x'"),
        (lambda rows: [row.pop("tuple") for row in rows], "column tuple is missing; found item_id, text"),
        (lambda rows: rows.clear() or rows.append(dict.fromkeys(TABLE[0], "")), "proposition_id is ''"),
    ],
)
def test_bad_dpg_tables_are_named(
    tmp_path: Path, change: Callable[[list[dict[str, str]]], object], message: str
) -> None:
    rows = [dict(row) for row in TABLE]
    change(rows)
    with pytest.raises(BenchmarkError, match=message):
        read_dpgbench(table(tmp_path, rows))


def test_gedit_records_of_all_formats(tmp_path: Path) -> None:
    english = {**GEDIT_ROW, "instruction_language": "en", "Intersection_exist": False}
    rows = [GEDIT_ROW, english]
    parquet = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{**row, "input_image": b"big"} for row in rows]), parquet)
    for url in (
        str(parquet),
        lines(tmp_path, rows),
        text(tmp_path, json.dumps(rows), "rows.json"),
        table(tmp_path, rows, "rows.csv"),
    ):
        bench = read_gedit([url], "cn")
        assert [item.key for item in bench.items] == ["k1"]
        assert bench.items[0].asked == gedit.Edit("Make\u2028him smile", "ps_human", "cn", True)
        assert bench.items[0].pictures == ("fullset/ps_human/cn/k1.png",)
        assert bench.items[0].source == "fullset/ps_human/cn/k1_SRCIMG.png"
        assert not read_gedit([url], "en").items[0].asked.intersection


@pytest.mark.parametrize(
    ("rows", "language", "message"),
    [
        ([GEDIT_ROW], "zh", "'zh' is unknown; the published records say 'cn'"),
        ([GEDIT_ROW], "de", "'de' is unknown; known: en, cn"),
        ([GEDIT_ROW], "en", "language 'en': holds no item; get the data set stepfun-ai"),
        ([GEDIT_ROW, GEDIT_ROW], "cn", r"line 2 .key 'k1'. repeats .*, line 1 .key 'k1'."),
        ([{**GEDIT_ROW, "task_type": "hair"}], "cn", "task_type 'hair' is unknown"),
        ([{**GEDIT_ROW, "instruction_language": "zh"}], "cn", "instruction_language 'zh' is unknown"),
        ([{"key": "k1"}], "cn", "line 1: Object missing required field `task_type`"),
    ],
)
def test_bad_gedit_records_are_named(tmp_path: Path, rows: list[Any], language: str, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        read_gedit([lines(tmp_path, rows)], language)


def test_bad_parquet_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ["k1"]}), tmp_path / "few.parquet")
    with pytest.raises(BenchmarkError, match="column task_type, instruction, instruction_language"):
        read_gedit([str(tmp_path / "few.parquet")], "cn")
    with pytest.raises(BenchmarkError, match=r"no\.parquet: cannot be read"):
        read_gedit([text(tmp_path, "not parquet", "no.parquet")], "cn")


def test_bad_geneval_files_are_named(tmp_path: Path) -> None:
    row = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}
    with pytest.raises(BenchmarkError, match=r"line 2 repeats .*, line 1"):
        read_geneval(lines(tmp_path, [row, row]))
    with pytest.raises(BenchmarkError, match="prompt line 1 is not a GenEval record"):
        read_geneval(lines(tmp_path, [{"prompt": "a dog"}]))
    with pytest.raises(BenchmarkError, match=r"empty\.jsonl: is empty; get prompts/evaluation_metadata"):
        read_geneval(text(tmp_path, "\n", "empty.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(json.dumps(row).encode() + "é".encode("latin-1"))
    with pytest.raises(BenchmarkError, match=r"latin\.jsonl: byte \d+ is no UTF-8"):
        read_geneval(str(tmp_path / "latin.jsonl"))


def test_bad_imgedit_files_are_named(tmp_path: Path) -> None:
    good = text(tmp_path, json.dumps({"add": "A: A number from 1 to 5.\n" * 3}), "prompts.json")
    entry = '"1": {"id": "x.jpg", "prompt": "add a hat", "edit_type": "%s"}'
    twice = text(tmp_path, f"{{{entry % 'add'}, {entry % 'add'}}}", "twice.json")
    with pytest.raises(BenchmarkError, match=r"key '1' repeats .* key '1'"):
        read_imgedit(twice, good)
    with pytest.raises(BenchmarkError, match="edit_type 'fly' is unknown"):
        read_imgedit(text(tmp_path, f"{{{entry % 'fly'}}}", "fly.json"), good)
    with pytest.raises(BenchmarkError, match="prompt for 'style' names 0 scores"):
        read_imgedit(text(tmp_path, f"{{{entry % 'style'}}}", "style.json"), good)
    with pytest.raises(BenchmarkError, match="not JSON"):
        read_imgedit_uge(text(tmp_path, "{", "cut.json"))
    with pytest.raises(BenchmarkError, match="missing required field `prompt`"):
        read_imgedit_uge(text(tmp_path, '{"1": {"id": "x.jpg"}}', "columns.json"))


def test_bad_wise_files_are_named(tmp_path: Path) -> None:
    def entry(identity: int) -> dict[str, Any]:
        return {"prompt_id": identity, "Prompt": "p", "Explanation": "e", "Category": "c", "Subcategory": "s"}

    def read(rows: list[Any]) -> None:
        read_wise([text(tmp_path, json.dumps(rows), "wise.json")])

    with pytest.raises(BenchmarkError, match=r"row 2 \(prompt_id 3\) repeats .*, row 1 \(prompt_id 3\)"):
        read([entry(3), entry(3)])
    with pytest.raises(BenchmarkError, match="prompt_id 1001 is outside 1 to 1000"):
        read([entry(1001)])
    with pytest.raises(BenchmarkError, match="missing required field `Explanation`"):
        read([{"prompt_id": 1, "Prompt": "p"}])


def test_missing_files_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(
        BenchmarkError, match=r"no such file; get dpg_bench/dpg_bench\.csv of github TencentQQGYLab/ELLA"
    ):
        read_dpgbench(str(tmp_path / "dpg_bench.csv"))
    with pytest.raises(BenchmarkError, match="no such file; get prompts/evaluation_metadata"):
        read_geneval("memory://nowhere/evaluation_metadata.jsonl")
    with pytest.raises(BenchmarkError, match="cannot be read"):
        read_wise(["nosuchprotocol://x/y.json"])


def test_files_are_read_by_url() -> None:
    row = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a dog"}
    with fsspec.open("memory://prompts/geneval.jsonl", "wt") as stream:
        stream.write(json.dumps(row) + "\n")
    assert read_geneval("memory://prompts/geneval.jsonl").items[0].prompt == "a dog"
