"""Benchmarks by name: how each is read, and what its records hold."""

from collections.abc import Mapping
from typing import Any

from reca.evaluation import dpgbench, geneval_benchmark
from reca.evaluation.benchmark import Benchmark, Record, load_records
from reca.evaluation.geneval import Prompt
from reca.evaluation.prompt_files import read_dpgbench, read_geneval
from reca.evaluation.run_config import Reading

SHAPES: Mapping[str, tuple[Any, Any]] = {
    "geneval": (Prompt, geneval_benchmark.Seen),
    "dpgbench": (dpgbench.Asked, dpgbench.Seen),
}
"""Classes of what is asked and of what is seen, by benchmark."""


def read_benchmark(reading: Reading, place: str) -> Benchmark[Any, Any]:
    """Read a benchmark.

    Args:
        reading: which one, and how.
        place: its file or folder, path or fsspec URL.

    Raises:
        BenchmarkError: when there is nothing readable at the place; the message says where to get it.
    """
    match reading.benchmark:
        case "geneval":
            return read_geneval(place, reading.samples, reading.long_prompts)
        case "dpgbench":
            return read_dpgbench(place, reading.samples)
        case other:
            raise ValueError(f"unknown benchmark {other!r}; known: {', '.join(SHAPES)}")


def read_records(benchmark: str, url: str) -> list[Record[Any, Any]]:
    """Records of a benchmark that `save_records` wrote."""
    return load_records(url, *SHAPES[benchmark])
