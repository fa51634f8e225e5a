"""Which edition of WISE a file of prompts, or a judge prompt, is of.

The editions share ids and fields. Two things tell prompts apart: `Category`, because the verified edition gives 167 ids
to another category, and the texts themselves. All rewritten prompts differ from the original ones, and 668 of the
verified ones do; the other 332, all on culture, are the same in both editions, so nothing can tell them. Prompts that
somebody changed show nothing either; what shows nothing is taken as it is named.

A judge prompt is told by the scores that it asks for: consistency, realism and aesthetic quality, or one `Score: 0` or
`Score: 1`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path

from reca.evaluation.records import BenchmarkError
from reca.evaluation.wise import CRITERIA, FIRST_IDS, SCORE, VERIFIED_IDS, category

EDITIONS = {
    "": "the first edition",
    "rewritten": "the first edition with rewritten prompts",
    "verified": "WISE_Verified",
}
"""Name of each edition, by what `wise.edition` calls it."""

LAST_IDS = {"": FIRST_IDS, "rewritten": FIRST_IDS, "verified": VERIFIED_IDS}

WORDS = {
    "cultural knowledge": "CULTURE",
    "time": "TIME",
    "space": "SPACE",
    "biology": "BIOLOGY",
    "ecology": "BIOLOGY",
    "physical knowledge": "PHYSICS",
    "chemistry": "CHEMISTRY",
}
"""Category by the published words of the field `Category`; `Ecology` stands at id 748 of the rewritten prompts."""

DIGESTS = Path(__file__).with_name("wise_digests.txt")
"""blake2b-32 of the published prompts, a line for each id from 1, in the order of `EDITIONS`."""


@dataclass(frozen=True)
class Row:
    """What tells of an entry's edition.

    Attributes:
        place: file and line or row.
        id: `prompt_id`, in the published range.
        prompt: `Prompt`.
        category: `Category`; empty where there is none.
    """

    place: str
    id: int
    prompt: str
    category: str


def check_edition(rows: Iterable[Row], edition: str, source: str) -> None:
    """Refuse prompts of one edition that are to be read as another.

    Args:
        rows: all prompts.
        edition: key of `EDITIONS`.
        source: where to get the files.

    Raises:
        BenchmarkError: naming the first prompt that tells, what was found, and what to set.
    """
    rows = list(rows)
    against = [(row, signs) for row in rows if (signs := _signs(row, edition))]
    if not against:
        return
    fitting = [other for other in EDITIONS if not any(_signs(row, other) for row in rows)]
    setting = f"set wise.edition={fitting[0]}" if fitting and fitting[0] else "leave wise.edition empty"
    mend = f"{setting}, or get" if fitting else "no edition has them so; get"
    row, signs = against[0]
    raise BenchmarkError(
        f"{row.place}: prompt_id {row.id} {signs[0]}; so tell {len(against)} of {len(rows)} prompts, which are to be "
        f"read as {EDITIONS[edition]}; {mend} {EDITIONS[edition]} from {source}"
    )


def _signs(row: Row, edition: str) -> Sequence[str]:
    """What speaks against an edition."""
    signs: list[str] = []
    named, expected = WORDS.get(row.category.strip().lower()), category(row.id, LAST_IDS[edition])
    if named not in (None, expected):
        signs.append(f"has the Category '{row.category}', which {EDITIONS[edition]} does not give this id")
    written = _written(row)
    if written and edition not in written:
        signs.append(f"has the text of {EDITIONS[written[0]]}")
    return signs


def _written(row: Row) -> Sequence[str]:
    """Editions that have a prompt so; none where its text is not known."""
    digest = blake2b(row.prompt.strip().encode(), digest_size=4).hexdigest()
    return [e for e, known in zip(EDITIONS, _digests()[row.id - 1], strict=True) if known == digest]


@cache
def _digests() -> Sequence[Sequence[str]]:
    return [line.split() for line in DIGESTS.read_text(encoding="utf-8").splitlines()]


def check_judge_prompt(text: str, verified: bool, place: str) -> None:
    """Refuse a judge prompt that asks for the scores of the other edition.

    One that asks for neither plainly, or for both, is taken as it is named.

    Args:
        text: the prompt.
        verified: whether WISE_Verified is judged.
        place: its file, for the message.

    Raises:
        BenchmarkError: with the setting that fits.
    """
    shown = [re.search(rf"\b{name}\W*[:(]\W*[0-2]\b", text, re.IGNORECASE) is not None for name in CRITERIA]
    if verified and all(shown) and not re.search(rf"\b{SCORE}\W*:", text, re.IGNORECASE):
        raise BenchmarkError(
            f"{place}: asks for {', '.join(CRITERIA)}, as the judge prompt of {EDITIONS['']} does, and not for the one "
            f"score of {EDITIONS['verified']}; leave wise.edition empty, or get the prompt in vllm_eval.py"
        )
    named = [re.search(rf"\b{name}\b", text, re.IGNORECASE) is not None for name in CRITERIA]
    if not verified and not all(named) and re.search(rf"\b{SCORE}\W*:\W*[01]\b", text, re.IGNORECASE):
        raise BenchmarkError(
            f"{place}: asks for one score, 0 or 1, as the judge prompt of {EDITIONS['verified']} does, and not for "
            f"{', '.join(CRITERIA)}; set wise.edition=verified, or get the prompt in gpt_eval.py"
        )
