"""The text files that a benchmark of pictures is given, read before a picture is drawn. Needs neither torch nor ray."""

from reca.evaluation.catalog import read_benchmark
from reca.evaluation.class_words import check_names, read_names
from reca.evaluation.endpoint import questions_of
from reca.evaluation.run_config import Reading


def check_files(reading: Reading, place: str, prompts: str = "", names: str = "") -> None:
    """Read what the later stages will read, and refuse what they would refuse.

    Args:
        reading: which benchmark, and how.
        place: its file or folder.
        prompts: judge prompts, as in `endpoint.judge_all`; empty where no judge is asked in words.
        names: GenEval: file with the detector's class words; empty takes COCO's.

    Raises:
        BenchmarkError: naming file and place, when something cannot be read, or does not fit together.
    """
    bench = read_benchmark(reading, place, prompts)
    if reading.benchmark == "geneval":
        check_names([item.asked for item in bench.items], read_names(names))
    elif prompts:
        questions_of(reading.benchmark, bench, prompts)
