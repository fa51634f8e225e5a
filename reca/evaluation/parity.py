"""Check our scoring rules against answers of the published scripts: `python -m reca.evaluation.parity DIR...`.

A folder holds `case-*.json` files, in itself or below: inputs of a published scoring script and what it answered. No
model, picture or judge is needed. One line is printed for each case; the exit status is 0 only if all agree.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from reca.evaluation.parity_cases import Answer, CaseError, answers

NOT_A_NUMBER = "NaN"
"""How case files spell it; texts under `replies` are left alone."""

REPLIES = "replies"


def disagreements(answer: Answer) -> Iterator[str]:
    """Where two answers differ: numbers beyond the limits, other keys, lengths, kinds or texts. NaN agrees with NaN.

    So does the text `NaN`, which a judge may write: case files do not tell the two apart.
    """
    yield from _walk(_numbers(answer.found), _numbers(answer.expected), answer.name, answer)


def check_case(path: Path) -> tuple[int, list[str]]:
    """Number of answers compared, and where they differ.

    Raises:
        CaseError: when the file is not a case that a rule here answers.
    """
    try:
        case = cast("dict[str, Any]", _numbers(json.loads(path.read_text(encoding="utf-8"))))
        compared = answers(case)
    except (OSError, ValueError) as error:
        raise CaseError(f"cannot be checked: {error}") from error
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CaseError(f"cannot be checked: the case lacks or misshapes a field: {error!r}") from error
    if not compared:
        raise CaseError("cannot be checked: the case states no answer")
    return len(compared), [line for answer in compared for line in disagreements(answer)]


def cases(place: Path) -> list[Path]:
    """The case files of a folder and of the folders below it; a file is its own case."""
    return sorted(place.rglob("case-*.json")) if place.is_dir() else [place]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per case. Returns 0 when every case of every folder agrees, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m reca.evaluation.parity", description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, metavar="DIR", help="folder of case files, or one case file")
    failed = 0
    for place in parser.parse_args(arguments).places:
        found = cases(place)
        if not found:
            print(f"FAIL {place}: no case-*.json in it or below")
            failed += 1
        for path in found:
            try:
                count, wrong = check_case(path)
            except CaseError as error:
                print(f"FAIL {path}: {error}")
                failed += 1
                continue
            first = f", {len(wrong)} differences, first: {wrong[0]}" if wrong else ""
            print(f"{'FAIL' if wrong else 'ok  '} {path}: {count} answers compared{first}")
            failed += bool(wrong)
    return 1 if failed else 0


def _walk(found: object, expected: object, where: str, limits: Answer) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        ours, theirs = cast("dict[str, object]", found), cast("dict[str, object]", expected)
        for key in [*theirs, *(key for key in ours if key not in theirs)]:
            if key not in ours or key not in theirs:
                yield f"{where}: '{key}' is {'missing' if key not in ours else 'not expected'}"
            else:
                yield from _walk(ours[key], theirs[key], f"{where}.{key}", limits)
    elif isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        pair = cast("Sequence[object]", found), cast("Sequence[object]", expected)
        if len(pair[0]) != len(pair[1]):
            yield f"{where}: {len(pair[0])} entries, expected {len(pair[1])}: {found!r}, expected {expected!r}"
            return
        for number, (ours, theirs) in enumerate(zip(*pair, strict=True)):
            yield from _walk(ours, theirs, f"{where}[{number}]", limits)
    elif not _equal(found, expected, limits):
        yield f"{where}: {found!r}, expected {expected!r}"


def _equal(found: object, expected: object, limits: Answer) -> bool:
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (found, expected)]
    if not all(numbers):
        return type(found) is type(expected) and found == expected
    if found == expected:
        return True
    try:
        ours, theirs = float(cast("float", found)), float(cast("float", expected))
    except OverflowError:  # whole numbers beyond floats, which a judge may write
        return False
    if math.isnan(ours) or math.isnan(theirs):
        return math.isnan(ours) and math.isnan(theirs)
    return abs(ours - theirs) <= max(limits.absolute, limits.relative * abs(theirs))


def _numbers(value: object) -> object:
    """The same with every text `NaN` as a float."""
    if isinstance(value, dict):
        entries = cast("dict[str, object]", value)
        return {key: entry if key == REPLIES else _numbers(entry) for key, entry in entries.items()}
    if isinstance(value, list):
        return [_numbers(entry) for entry in cast("list[object]", value)]
    return math.nan if value == NOT_A_NUMBER else value


if __name__ == "__main__":
    sys.exit(main())
