"""The smallest good set of every benchmark, two items each, in the published formats."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from reca.evaluation.benchmark import Benchmark
from reca.evaluation.catalog import read_benchmark
from reca.evaluation.run_config import Reading

DPG_HEADING = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language"
)


@dataclass(frozen=True)
class SmallSet:
    """How a set is read.

    Attributes:
        reading: which benchmark, and how.
        place: what its setting names, relative to the folder of all sets.
        file: the one file that is broken in tests.
        text: field of that file that holds a prompt, question or instruction.
        source: what a message says of where to get the file.
    """

    reading: Reading
    place: str
    file: str
    text: str
    source: str

    def read(self, folder: Path) -> Benchmark[Any, Any]:
        return read_benchmark(self.reading, str(folder / self.place), str(folder / "imgedit_prompts.json"))


WISE = SmallSet(Reading("wise"), "wise.json", "wise.json", "Prompt", "github PKU-YuanGroup/WISE")
GEDIT = SmallSet(Reading("gedit", 1, "en"), "gedit.jsonl", "gedit.jsonl", "instruction", "stepfun-ai/GEdit-Bench")
SETS: Mapping[str, SmallSet] = {
    "geneval": SmallSet(
        Reading("geneval", 2), "geneval.jsonl", "geneval.jsonl", "prompt", "evaluation_metadata.jsonl of github djgh"
    ),
    "dpgbench": SmallSet(Reading("dpgbench", 2), "dpg.csv", "dpg.csv", "text", "dpg_bench.csv of github TencentQQ"),
    "wise": WISE,
    "wise verified": SmallSet(Reading("wise", 1, "verified"), WISE.place, WISE.file, WISE.text, WISE.source),
    "imgedit": SmallSet(Reading("imgedit"), "imgedit.json", "imgedit.json", "prompt", "github PKU-YuanGroup/ImgEdit"),
    "gedit": GEDIT,
    "gedit parquet": SmallSet(GEDIT.reading, "gedit", "gedit/train-0.parquet", GEDIT.text, GEDIT.source),
    "pope": SmallSet(Reading("pope"), "pope", "pope/coco_pope_popular.json", "text", "github AoiDragon/POPE"),
    "mme": SmallSet(Reading("mme"), "mme", "mme/count/1.txt", "", "MME_Benchmark_release_version"),
    "gqa": SmallSet(Reading("gqa"), "gqa.json", "gqa.json", "question", "stanford.edu/people/dorarad/gqa"),
    "mmmu": SmallSet(
        Reading("mmmu"), "mmmu", "mmmu/Art/validation-00000-of-00001.parquet", "question", "the data set MMMU/MMMU"
    ),
}


def rows(name: str, numbers: tuple[int, ...] = (1, 2)) -> list[dict[str, Any]]:
    """Entries of the set's file; of a JSON object, those behind its keys."""
    picture = {"bytes": png(), "path": "x.png"}
    entry: Mapping[str, Any] = {
        "geneval": lambda n: {"tag": "counting", "include": [{"class": "dog", "count": n}], "prompt": f"{n} dogs"},
        "dpgbench": lambda n: dict(
            zip(
                DPG_HEADING.split(","),
                ["a", "cats", "", n, n - 1, "entity", "whole", "entity - whole", "?"],
                strict=True,
            )
        ),
        "wise": lambda n: {"prompt_id": n, "Prompt": "p", "Explanation": "e", "Category": "c", "Subcategory": "s"},
        "imgedit": lambda n: {"id": "in.png", "prompt": f"add {n}", "edit_type": "add"},
        "gedit": lambda n: {
            "key": f"k{n}",
            "task_type": "ps_human",
            "instruction": "smile",
            "instruction_language": "en",
            "Intersection_exist": True,
            "input_image_raw": None,
        },
        "pope": lambda n: {"question_id": n, "image": f"{n}.jpg", "text": "Is it there?", "label": "yes"},
        "gqa": lambda n: {"imageId": f"{n}", "question": "?", "answer": "cat", "types": {"structural": "query"}},
        "mmmu": lambda n: {
            "id": f"validation_Art_{n}",
            "question": "?",
            "options": "['a', 'b']",
            "answer": "A",
            "question_type": "multiple-choice",
            "image_1": picture,
        },
    }
    return [entry[name.split()[0]](n) for n in numbers]


def write(name: str, folder: Path, entries: list[dict[str, Any]]) -> None:
    """Write the set's file in its format."""
    path = folder / SETS[name].file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(entries), path)
    elif path.suffix == ".csv":
        heading = list(dict.fromkeys(column for entry in entries for column in entry))
        shown = [["" if entry.get(column) is None else str(entry[column]) for column in heading] for entry in entries]
        cells = [",".join(row) for row in shown]
        path.write_text("\n".join([",".join(heading), *cells]) + "\n")
    elif name in ("imgedit", "gqa"):
        named = ",\n".join(f'"{number}": {json.dumps(entry)}' for number, entry in enumerate(entries, start=1))
        path.write_text(f"{{{named}}}\n")
    elif name.startswith("wise"):
        path.write_text(json.dumps(entries, indent=1) + "\n")
    else:
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def write_all(folder: Path) -> Path:
    """Every set in one folder."""
    for name in SETS:
        if name != "mme":
            write(name, folder, rows(name))
    for group in ("random", "adversarial"):
        (folder / f"pope/coco_pope_{group}.json").write_bytes((folder / SETS["pope"].file).read_bytes())
    (folder / "mme/count").mkdir(parents=True)
    for number in (1, 2):
        (folder / f"mme/count/{number}.txt").write_text("Is it a cat?\tYes\nIs it a dog?\tNo\n")
        (folder / f"mme/count/{number}.png").write_bytes(png())
    names = "".join(f"{letter}: A number from 1 to 5.\n" for letter in "ABC")
    (folder / "imgedit_prompts.json").write_text(json.dumps({"add": f"Rate <edit_prompt>.\n{names}"}))
    return folder


def png(size: tuple[int, int] = (8, 8), color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, format="PNG")
    return buffer.getvalue()
