"""Which edition of WISE a prompt file is of.

The editions share ids and fields. Two things tell them apart: `Category`, because the verified edition gives 167 ids to
another category, and the prompts themselves. All rewritten prompts differ from the original ones; of the verified ones
600 do, but only 68 of the 400 on culture. So a part of the culture prompts, or prompts that somebody changed, may show
nothing; what shows nothing is taken as it is named.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from reca.evaluation.records import BenchmarkError
from reca.evaluation.wise import FIRST_IDS, VERIFIED_IDS, category

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

WITNESSES = {
    1: ("f651e2b9", "924bd3fd", "6a96557e"),
    12: ("c5a78eef", "6b1e0406", "1a6cc6de"),
    110: ("d799abd0", "e1142bf4", "6658b139"),
    192: ("db725763", "8af94d27", "e7679756"),
    280: ("30b8849d", "f17684a5", "a710a513"),
    388: ("af08d1c6", "2320693d", "6790e71d"),
    450: ("9173c279", "c2cd3a2a", "1548b0dd"),
    600: ("1204d292", "a14b92ec", "f64e6b67"),
    720: ("34af9a42", "a77c7f70", "f26b0aa8"),
    850: ("4dc71139", "f35fec33", "714b7791"),
    950: ("dc185089", "7ff5192e", "41444f68"),
}
"""blake2b-32 of some prompts that all editions have and word differently, in the order of `EDITIONS`."""


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
    if written not in (None, edition):
        signs.append(f"has the text of {EDITIONS[str(written)]}")
    return signs


def _written(row: Row) -> str | None:
    """Edition whose text a prompt has; None where its text is not known."""
    digest = blake2b(row.prompt.strip().encode(), digest_size=4).hexdigest()
    return next((e for e, known in zip(EDITIONS, WITNESSES.get(row.id, ()), strict=False) if known == digest), None)
