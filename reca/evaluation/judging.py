"""From a folder of pictures to records, where the judge is asked in words: DPG-Bench, ImgEdit, GEdit and WISE.

Judge prompts are read from files, like the benchmarks' prompts: their texts have licences of their own. Place-holders
are `<edit_prompt>` (ImgEdit), `<instruction>` (GEdit), `<prompt>` and `<explanation>` (WISE). DPG-Bench's questions
come from its own table; a judge other than mPLUG is told to answer yes or no.
"""

import asyncio
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from PIL import Image

from reca.evaluation import dpgbench, gedit, imgedit, wise
from reca.evaluation.benchmark import Benchmark
from reca.evaluation.judge_client import Asker, JudgeClient, JudgeError, NoReplyError, Question
from reca.evaluation.picture_files import Pictures, cells_of, read_grid, read_picture
from reca.evaluation.records import A, BenchmarkError, Item, Record, S
from reca.evaluation.tally import AllRefusedError, Tally, spaced

YES_OR_NO = "Answer with one word, yes or no."
"""What a judge that is no yes-or-no model is told besides the question."""

UNREADABLE = "a picture cannot be read"
NO_REPLY = "the judge gave no reply"
"""`Record.unscored` of what was not judged."""

MEND = (
    "see the replies, which are kept in {folder}; another judge (judge.model), judge prompt or judge.max_tokens asks "
    "anew, and so does another folder of replies (--context replies=FOLDER)"
)

Questions = Callable[[Item[A], str], Sequence[Question]]
"""Questions about the picture of an item at a URL. Raises BenchmarkError when a picture cannot be read."""


def judge_pictures(
    bench: Benchmark[A, S],
    client: JudgeClient,
    pictures: Pictures,
    questions: Questions[A],
    seen: Callable[[Item[A], Sequence[str]], S],
    turns: int = 1,
) -> list[Record[A, S]]:
    """Ask about every picture found, and decide; missing pictures get no record.

    Args:
        bench: items and rules.
        client: the judge; kept replies are not asked for again.
        pictures: of `find_pictures` on the same items.
        questions: `imgedit_questions` and the like.
        seen: makes what the rules read out of the replies; of no replies, when there are none.
        turns: times a judge is asked when the rules cannot read its replies; the last replies stand.

    Returns:
        Records in the order of the items. A picture that cannot be read, or about which the judge gave no reply, is
        unscored.

    Raises:
        JudgeError: when the judge cannot be used at all, or not one of its first replies can (see `Tally`); replies so
            far are kept. A set that is too small for the second ends with all its pictures unscored.
    """
    jobs = [
        (item, sample, pictures.found[item.key, sample])
        for item in bench.items
        for sample in range(len(item.pictures))
        if (item.key, sample) in pictures.found
    ]
    order = spaced(range(len(jobs)), 1)
    tally = Tally(len(jobs), "pictures", MEND.format(folder=client.cache.folder))

    async def work(asker: Asker, number: int) -> Record[A, S]:
        item, sample, url = jobs[number]
        record = await _judged(bench, asker, item, sample, url, questions, seen, turns)
        unread = record.unscored == UNREADABLE
        useless = not unread and (record.unscored == NO_REPLY or bench.unjudged(record))
        reasons = [": ".join((str(record.unscored), *record.why[:1]))] if useless else []
        try:
            tally.add(int(not unread), reasons, int(unread))
        except AllRefusedError as error:
            raise JudgeError(str(error)) from error
        return record

    records = dict(zip(order, client.run(order, work), strict=True))
    return [records[number] for number in sorted(records)]


async def _judged(
    bench: Benchmark[A, S],
    asker: Asker,
    item: Item[A],
    sample: int,
    url: str,
    questions: Questions[A],
    seen: Callable[[Item[A], Sequence[str]], S],
    turns: int,
) -> Record[A, S]:
    """Ask about one picture, and decide."""
    try:
        asked = await asyncio.to_thread(questions, item, url)
    except BenchmarkError as error:
        return _unscored(item, sample, seen(item, ()), UNREADABLE, error)
    turn = 0
    while True:
        try:
            replies = [await asker.ask(msgspec.structs.replace(question, turn=turn)) for question in asked]
        except NoReplyError as error:
            return _unscored(item, sample, seen(item, ()), NO_REPLY, error)
        record, turn = bench.decide(item, sample, seen(item, replies)), turn + 1
        if record.unscored is None or turn >= turns:
            return record


def one_reply(item: Item[Any], replies: Sequence[str]) -> str:
    """ImgEdit and WISE: the reply."""
    del item
    return replies[0] if replies else ""


def two_replies(item: Item[Any], replies: Sequence[str]) -> gedit.Replies:
    """GEdit: consistency and quality."""
    del item
    return gedit.Replies(*replies) if replies else gedit.Replies("", "")


def answers_by_cell(item: Item[dpgbench.Asked], replies: Sequence[str]) -> dpgbench.Seen:
    """DPG-Bench: answers by question, cell after cell."""
    ids = [question.id for question in item.asked]
    return tuple(
        dict(zip(ids, replies[start : start + len(ids)], strict=True)) for start in range(0, len(replies), len(ids))
    )


def dpgbench_questions(resolution: int | None = None) -> Questions[dpgbench.Asked]:
    """Every question of the table, about the whole picture or about each cell of a 2 x 2 grid.

    Args:
        resolution: side of a cell in pixels, cells in reading order; None for the whole picture.
    """

    def questions(item: Item[dpgbench.Asked], url: str) -> Sequence[Question]:
        cells = (read_picture(url),) if resolution is None else cells_of(read_grid(url, resolution), resolution)
        return [Question(f"{q.text} {YES_OR_NO}", (data,)) for data in map(_png, cells) for q in item.asked]

    return questions


def imgedit_questions(
    prompts: Mapping[str, str], sources: str, name: str = "ImgEdit judge prompt"
) -> Questions[imgedit.Edit]:
    """The type's judge prompt with the source and the edited picture.

    Args:
        prompts: judge prompt by edit type.
        sources: folder or URL of the source pictures.
        name: of the prompts, for messages.

    Raises:
        BenchmarkError: when a prompt lacks its place-holder.
    """
    for kind, prompt in prompts.items():
        _require(prompt, ("<edit_prompt>",), f"{name} '{kind}'")

    def questions(item: Item[imgedit.Edit], url: str) -> Sequence[Question]:
        text = prompts[item.asked.type].replace("<edit_prompt>", item.asked.instruction)
        return (Question(text, (_png(_source(sources, item)), _png(read_picture(url)))),)

    return questions


def gedit_questions(
    consistency: str, quality: str, sources: str, name: str = "GEdit consistency prompt"
) -> Questions[gedit.Edit]:
    """VIEScore's two questions; the edited picture is first resized to the source's size, as published.

    Args:
        consistency: prompt about both pictures.
        quality: prompt about the edited picture.
        sources: folder or URL of the source pictures.
        name: of the first prompt, for messages.

    Raises:
        BenchmarkError: when the first prompt lacks its place-holder.
    """
    _require(consistency, ("<instruction>",), name)

    def questions(item: Item[gedit.Edit], url: str) -> Sequence[Question]:
        source = _source(sources, item)
        edited = _png(read_picture(url).resize(source.size))
        text = consistency.replace("<instruction>", item.asked.instruction)
        return Question(text, (_png(source), edited)), Question(quality, (edited,))

    return questions


def wise_questions(prompt: str, system: str | None = None, name: str = "WISE judge prompt") -> Questions[wise.Prompt]:
    """The judge prompt of an edition with the drawn picture.

    Args:
        prompt: asks for the scores of the edition.
        system: instruction before it.
        name: of the prompt, for messages.

    Raises:
        BenchmarkError: when the prompt lacks a place-holder.
    """
    _require(prompt, ("<prompt>", "<explanation>"), name)

    def questions(item: Item[wise.Prompt], url: str) -> Sequence[Question]:
        words = {"<prompt>": item.asked.prompt, "<explanation>": item.asked.explanation}
        # In one pass, so that a prompt which speaks of a place-holder keeps it.
        text = re.sub("|".join(words), lambda match: words[match[0]], prompt)
        return (Question(text, (_png(read_picture(url)),), system),)

    return questions


def _unscored(item: Item[A], sample: int, seen: S, reason: str, error: Exception) -> Record[A, S]:
    return Record(item.key, sample, item.group, item.asked, seen, why=(str(error),), unscored=reason)


def _require(prompt: str, places: Sequence[str], what: str) -> None:
    if lacking := [place for place in places if place not in prompt]:
        raise BenchmarkError(f"{what}: place-holder {', '.join(lacking)} is missing; put it where the text belongs")


def _source(folder: str, item: Item[Any]) -> Image.Image:
    if item.source is None:
        raise BenchmarkError(f"item '{item.key}' names no source picture")
    return read_picture(f"{folder.rstrip('/')}/{item.source}")


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
