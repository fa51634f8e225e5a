"""Benchmarks by name: how each is read, and what its records hold."""

from collections.abc import Mapping, Sequence
from typing import Any

from reca.evaluation import dpgbench, gedit, geneval_benchmark, imgedit, mmmu, picture_questions, wise
from reca.evaluation.benchmark import Benchmark
from reca.evaluation.geneval import Prompt
from reca.evaluation.gqa import read_gqa
from reca.evaluation.mme import read_mme
from reca.evaluation.pope import read_pope
from reca.evaluation.prompt_files import (
    read_dpgbench,
    read_gedit,
    read_geneval,
    read_imgedit,
    read_wise,
    read_wise_verified,
)
from reca.evaluation.records import Record, load_records
from reca.evaluation.run_config import Reading
from reca.evaluation.tables import parquet_files

SHAPES: Mapping[str, tuple[Any, Any]] = {
    "geneval": (Prompt, geneval_benchmark.Seen),
    "dpgbench": (dpgbench.Asked, dpgbench.Seen),
    "wise": (wise.Prompt, str),
    "imgedit": (imgedit.Edit, str),
    "gedit": (gedit.Edit, gedit.Replies),
    "pope": (picture_questions.Asked, picture_questions.Answers),
    "gqa": (picture_questions.Asked, picture_questions.Answers),
    "mme": (picture_questions.Asked, picture_questions.Answers),
    "mmmu": (mmmu.Asked, picture_questions.Answers),
}
"""Classes of what is asked and of what is seen, by benchmark."""

WISE_FILES = ("cultural_common_sense", "spatio-temporal_reasoning", "natural_science")
WISE_ENDINGS = {"": "", "rewritten": "_rewrite", "verified": "_verified"}
"""Names of the three published files, and their endings by edition."""


def read_benchmark(reading: Reading, place: str, judge_prompts: str = "") -> Benchmark[Any, Any]:
    """Read a benchmark.

    Args:
        reading: which one, and how.
        place: its file or folder, path or fsspec URL.
        judge_prompts: ImgEdit: file of judge prompts, which name the scores.

    Raises:
        BenchmarkError: when there is nothing readable at the place; the message says where to get it.
        ValueError: no benchmark has this name.
    """
    match reading.benchmark:
        case "geneval":
            return read_geneval(place, reading.samples, reading.edition == "long")
        case "dpgbench":
            return read_dpgbench(place, reading.samples, reading.edition == "grid")
        case "wise" if reading.edition == "verified":
            return read_wise_verified(wise_files(place, reading.edition))
        case "wise":
            return read_wise(wise_files(place, reading.edition), reading.edition == "rewritten")
        case "imgedit":
            return read_imgedit(place, judge_prompts)
        case "gedit":
            return read_gedit(parquet_files(place) or [place], reading.edition)
        case "pope":
            return read_pope(place)
        case "gqa":
            return read_gqa(place)
        case "mme":
            return read_mme(place)
        case "mmmu":
            return mmmu.read_mmmu(place)
        case other:
            raise ValueError(f"unknown benchmark {other!r}; known: {', '.join(SHAPES)}")


def wise_files(place: str, edition: str) -> Sequence[str]:
    """The one file, or the three files of an edition in a folder."""
    if place.endswith((".json", ".jsonl")):
        return (place,)
    return [f"{place.rstrip('/')}/{name}{WISE_ENDINGS[edition]}.json" for name in WISE_FILES]


def read_records(benchmark: str, url: str) -> list[Record[Any, Any]]:
    """Records of a benchmark that `save_records` wrote."""
    return load_records(url, *SHAPES[benchmark])
