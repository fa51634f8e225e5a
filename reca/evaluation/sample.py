"""Held-out questions about the built-in world, written in GQA's file format: something to try an evaluation on.

The tiny checkpoints know this world. It is not GQA and not titled so: a score on it shows that the road works, and
nothing else.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from reca.data.scenes import render
from reca.evaluation.understanding import held_out_scenes, questions

QUESTIONS, PICTURES = "questions.json", "pictures"
TITLE = "sample about the built-in world"
"""What the set is called in tables and reports."""

LIST = "list"
"""Kind of question that is left out: its answers are longer than GQA's."""


def write_sample(folder: Path, count: int) -> int:
    """Write `questions.json` and the folder `pictures`.

    Args:
        folder: made when missing.
        count: held-out questions to choose from.

    Returns:
        Number of questions written.
    """
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    scenes = held_out_scenes(count)
    entries: dict[str, object] = {}
    for index, kind, asked, answer in questions(count):
        if kind == LIST:
            continue
        Image.fromarray(render(scenes[index])).save(folder / PICTURES / f"{index}.jpg", quality=95, subsampling=0)
        types = {"structural": "verify" if answer in ("yes", "no") else "query"}
        entries[f"{index}"] = {"imageId": f"{index}", "question": asked, "answer": answer, "types": types, "set": TITLE}
    (folder / QUESTIONS).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return len(entries)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: the folder, and how many questions to choose from."""
    parser = argparse.ArgumentParser(
        prog="python -m reca.evaluation.sample", description="Write a small set of questions about the built-in world."
    )
    parser.add_argument("folder", type=Path, help="where questions.json and the folder pictures go; made when missing")
    parser.add_argument("--count", type=int, default=60, help="held-out questions to choose from (default: 60)")
    arguments = parser.parse_args(argv)
    if arguments.count < 1:
        parser.error(f"--count is {arguments.count}, but at least one question must be chosen from")
    try:
        written = write_sample(arguments.folder, arguments.count)
    except OSError as error:
        parser.error(f"cannot write to {arguments.folder}: {error}; name a folder that can be written, or made")
    print(f"{written} questions in {arguments.folder / QUESTIONS}, their pictures in {arguments.folder / PICTURES}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
