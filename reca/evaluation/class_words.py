"""The classes of GenEval's detector in GenEval's words. Needs no torch."""

from collections.abc import Sequence
from pathlib import Path

from reca.evaluation.geneval import Prompt
from reca.evaluation.records import BenchmarkError
from reca.evaluation.tables import read_text

COCO_NAMES = Path(__file__).with_name("coco_names.txt")
"""COCO's 80 classes in the order of the detector's outputs, in GenEval's words (COCO: mouse, remote, keyboard)."""

NAMES_SOURCE = "evaluation/object_names.txt of github djghosh13/geneval"


def read_names(url: str = "") -> tuple[str, ...]:
    """Class words, one a line; of COCO when no file is given.

    Raises:
        BenchmarkError: when the file cannot be read.
    """
    text = read_text(url, NAMES_SOURCE) if url else COCO_NAMES.read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def check_names(prompts: Sequence[Prompt], names: Sequence[str]) -> None:
    """Refuse prompts that ask for a class no detector output stands for.

    Raises:
        BenchmarkError: naming the class.
    """
    known = set(names)
    for prompt in prompts:
        for entry in (*prompt.include, *prompt.exclude):
            if entry.name not in known:
                raise BenchmarkError(
                    f"prompt '{prompt.prompt}' asks for '{entry.name}', which is no class of the detector; give class "
                    "words (object_names) that match the prompt file"
                )
