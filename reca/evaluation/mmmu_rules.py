"""How MMMU's replies are read: strictly, and as the official `eval_utils.py` (github MMMU-Benchmark/MMMU) does."""

import re
from collections.abc import Sequence

from reca.evaluation.picture_questions import same

TRIMMED = ",.!?;:'"
"""Taken off both ends of a reply, one character after the other, in this order."""

CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""Words before the answer in an open reply; in its last part an equals sign counts too."""

TRIVIAL = (":", ",", ".", "!", "?", ";", "'")
"""Parts that are no answer."""

NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)
"""Numbers with thousands' commas, in scientific notation, and plain ones."""


def strict_letter(reply: str, options: Sequence[str]) -> str | None:
    """The letter that a reply begins with, or the only one in brackets, or that of the option it repeats; else None."""
    letters = letters_of(options)
    if begins := re.match(r"\W*([A-Z])(?=$|[).:,;*\n])", reply.strip()):
        return begins[1] if begins[1] in letters else None
    bracketed = {letter for letter in letters if f"({letter})" in reply}
    repeated = {letter for letter, text in zip(letters, options, strict=True) if same(reply, text)}
    found = bracketed or repeated
    return found.pop() if len(found) == 1 else None


def official_letter(reply: str, options: Sequence[str]) -> str | None:
    """What `parse_multi_choice_response` takes a reply for; None where it draws a random letter.

    Letters in brackets come first, then letters between blanks, then, in replies of more than five words, texts of
    options; of several the one that stands last.
    """
    for character in TRIMMED:
        reply = reply.strip(character)
    reply = f" {reply} "
    letters = letters_of(options)
    for form in ("({})", " {} "):
        if found := {letter: at for letter in letters if (at := reply.rfind(form.format(letter))) >= 0}:
            return max(found, key=found.__getitem__)
    if len(reply.split()) <= 5:
        return None
    lowered = reply.lower()
    places = {letter: lowered.rfind(text.lower()) for letter, text in zip(letters, options, strict=True)}
    found = {letter: at for letter, at in places.items() if at >= 0}
    return max(found, key=found.__getitem__) if found else None


def official_open(reply: str, answers: Sequence[str]) -> bool:
    """Whether `eval_open` takes a reply for right.

    True answers are looked for inside the parts of the reply behind a cue word, and among the numbers in them; numbers
    are compared after rounding to two decimals.
    """
    wanted = [value for answer in answers for value in _normal(answer)]
    given = [value for text in _candidates(reply) for value in _normal(text)]
    return any(
        any(isinstance(want, str) and want in value for want in wanted) if isinstance(value, str) else value in wanted
        for value in given
    )


def letters_of(options: Sequence[str]) -> list[str]:
    """A, B, ... for each option."""
    return [chr(ord("A") + place) for place in range(len(options))]


def _candidates(reply: str) -> list[str]:
    """Parts of an open reply that may hold its answer, and the numbers in them (`parse_open_response`)."""
    lowered = reply.strip().strip(".").lower()
    # The script also splits at a period before a capital letter, which no lower-cased text has.
    lines = lowered.split("\n")
    parts: list[str] = []
    for number, line in enumerate(lines, start=1):
        cues = (*CUES, "=") if number == len(lines) else CUES
        tails = [line.split(cue)[-1].strip() for cue in cues if cue in line]
        tail = _shortest(tails)
        if tail and tail not in TRIVIAL:
            parts.append(tail)
    parts = parts or [lowered]
    return [*parts, *(number for part in parts for form in NUMBERS for number in re.findall(form, part))]


def _shortest(tails: Sequence[str]) -> str:
    """The first of the shortest tails; an empty one gives way to any later one, as in the script."""
    chosen = ""
    for tail in tails:
        if not chosen or len(tail) < len(chosen):
            chosen = tail
    return chosen


def _normal(text: str) -> list[str | float]:
    """A number rounded to two decimals, or lower-cased text; one letter must have a blank beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
