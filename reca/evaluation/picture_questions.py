"""Questions about a picture: what is asked, and how answers are read strictly."""

import re

import msgspec


class PictureQuestion(msgspec.Struct, frozen=True):
    """A question about a picture.

    Attributes:
        text: put to the model.
        label: the true answer.
    """

    text: str
    label: str


Asked = tuple[PictureQuestion, ...]
"""The questions about one picture."""

Answers = tuple[str, ...]
"""The model's answers to them, unchanged."""

UNREAD = "an answer does not begin with yes or no"


def first_word(answer: str) -> str | None:
    """`yes` or `no` where an answer begins with that word, in any case; None for anything else."""
    found = re.match(r"\W*(yes|no)\b", answer, re.IGNORECASE)
    return found[1].lower() if found else None


def same(given: str, expected: str) -> bool:
    """Whether two answers are equal after lower-casing, joining blanks and dropping a final period."""
    return _plain(given) == _plain(expected)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).removesuffix(".").strip()
