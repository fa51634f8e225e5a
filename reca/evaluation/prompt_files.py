"""Readers of the published prompt files, by path or any fsspec URL. The files have licences of their own and stay
outside.

Every reader returns a benchmark with its items in the published order, and refuses what it cannot use with the place in
the file, what was expected, and where to get the right file.
"""

from collections.abc import Mapping, Sequence
from statistics import median

import msgspec

from reca.evaluation import gedit, imgedit, wise, wise_editions
from reca.evaluation.dpgbench import DPGBench, Question, question_of
from reca.evaluation.geneval import GenEvalError, read_prompts
from reca.evaluation.geneval_benchmark import GenEval
from reca.evaluation.picture_files import SOURCE_ENDING
from reca.evaluation.records import BenchmarkError, Item
from reca.evaluation.tables import read_csv, read_entries, read_records, read_text, some, unique

GENEVAL_SOURCE = "prompts/evaluation_metadata.jsonl of github djghosh13/geneval"
DPG_SOURCE = "dpg_bench/dpg_bench.csv of github TencentQQGYLab/ELLA"
IMGEDIT_SOURCE = "Benchmark/Basic of github PKU-YuanGroup/ImgEdit"
UGE_SOURCE = "Benchmark/UGE/uge_edit.json of github PKU-YuanGroup/ImgEdit"
GEDIT_SOURCE = "the data set stepfun-ai/GEdit-Bench on the Hugging Face hub (hf://datasets/stepfun-ai/GEdit-Bench/...)"
WISE_SOURCE = "data or data_verified of github PKU-YuanGroup/WISE"

LONGEST_SHORT, PHOTO = 40, "a photo of"
"""The 553 original prompts of GenEval have 5 to 12 words and begin so; the long ones of RecA have 70 to 132."""

DPG_COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")


class EditRow(msgspec.Struct, frozen=True):
    """One entry of an ImgEdit file.

    Attributes:
        id: path of the source picture.
        prompt: instruction.
        edit_type: one of `imgedit.TYPES`; absent in UGE.
    """

    id: str
    prompt: str
    edit_type: str = imgedit.UGE


class GEditRow(msgspec.Struct, frozen=True):
    """The fields of a GEdit record that the rules need.

    Attributes:
        key: unique among those of one language.
        task_type: one of `gedit.TYPES`.
        instruction: what to change.
        instruction_language: one of `gedit.LANGUAGES`.
        intersection: `Intersection_exist` in the file.
    """

    key: str
    task_type: str
    instruction: str
    instruction_language: str
    intersection: bool = msgspec.field(name="Intersection_exist")


class WiseRow(msgspec.Struct, frozen=True):
    """One entry of a WISE file.

    Attributes:
        prompt_id: 1 to 1000.
        prompt: `Prompt` in the file.
        explanation: `Explanation` in the file.
        category: `Category` in the file; empty where there is none.
    """

    prompt_id: int
    prompt: str = msgspec.field(name="Prompt")
    explanation: str = msgspec.field(name="Explanation")
    category: str = msgspec.field(name="Category", default="")


def read_geneval(url: str, samples: int = 4, long_prompts: bool = False) -> GenEval:
    """GenEval's prompt file (JSON lines).

    Args:
        url: `evaluation_metadata.jsonl`, or a file of the same form.
        samples: pictures for each prompt; 4 as published, RecA's BAGEL script takes 12.
        long_prompts: whether the prompts are the rewritten ones.

    Raises:
        BenchmarkError: when the file is missing, malformed or empty, holds a specification twice, or holds prompts of
            the other kind.
    """
    try:
        numbered = read_prompts(read_text(url, GENEVAL_SOURCE).split("\n"))
    except GenEvalError as error:
        raise BenchmarkError(f"{url}: {error}; get {GENEVAL_SOURCE}") from error
    prompts = list(numbered.values())
    unique(prompts, [f"{url}, line {number}" for number in numbered])
    _check_length(url, [prompt.prompt for prompt in prompts], long_prompts)
    items = [
        Item(
            key=f"{number:05d}",
            group=prompt.tag,
            prompt=prompt.prompt,
            asked=prompt,
            pictures=tuple(f"{number:05d}/samples/{sample:04d}.png" for sample in range(samples)),
        )
        for number, prompt in enumerate(prompts)
    ]
    return GenEval(some(url, items, GENEVAL_SOURCE), long_prompts=long_prompts)


def _check_length(url: str, prompts: Sequence[str], long_prompts: bool) -> None:
    """Refuse long prompts as the original ones, and the other way round: long prompts lift scores.

    Sets of other people are let pass unless they plainly are of the other kind.
    """
    words = median([len(prompt.split()) for prompt in prompts] or [0])
    if not long_prompts and words > LONGEST_SHORT:
        raise BenchmarkError(
            f"{url}: half of the prompts have {words:g} words or more, the original ones at most 12; these are long "
            "prompts, an edition of their own: set geneval.long_prompts=true"
        )
    if long_prompts and len(prompts) == GenEval.published and all(text.startswith(PHOTO) for text in prompts):
        raise BenchmarkError(
            f"{url}: every prompt begins with '{PHOTO}', as the original ones do and no long one does; set "
            "geneval.long_prompts=false"
        )


def read_dpgbench(url: str, samples: int = 4, grid: bool = False) -> DPGBench:
    """DPG-Bench's question table (CSV), all rows.

    Args:
        url: `dpg_bench.csv`, or a table of the same columns.
        samples: pictures for each item, as files `<item>_<number>.png` (RecA's layout).
        grid: one file `<item>.png` for each item instead, its samples as a 2 x 2 grid (ELLA's layout).

    Raises:
        BenchmarkError: when the file is missing, lacks a column, holds a question twice, or names a parent that is not
            there or that depends on its own child.
    """
    tables: dict[str, list[Question]] = {}
    texts: dict[str, str] = {}
    for number, row in enumerate(read_csv(url, DPG_COLUMNS, DPG_SOURCE)):
        try:
            tables.setdefault(row["item_id"], []).append(question_of(row, number))
        except BenchmarkError as error:
            raise BenchmarkError(f"{url}: {error}; get {DPG_SOURCE}") from error
        texts.setdefault(row["item_id"], row["text"])
    for key, questions in tables.items():
        _check_questions(url, key, questions)

    names = {
        key: (f"{key}.png",) if grid else tuple(f"{key}_{sample}.png" for sample in range(samples)) for key in tables
    }
    items = [Item(key, "", texts[key], tuple(questions), names[key]) for key, questions in tables.items()]
    return DPGBench(some(url, items, DPG_SOURCE), grid)


def read_imgedit(edits: str, judge_prompts: str) -> imgedit.ImgEdit:
    """ImgEdit's basic edits with the criteria of the judge prompts.

    Args:
        edits: `basic_edit.json`.
        judge_prompts: `prompts.json`: judge prompt by edit type.

    Raises:
        BenchmarkError: when a file is missing or malformed, a key stands twice, or a type has no judge prompt that asks
            for three scores.
    """
    rows = read_entries(edits, EditRow, IMGEDIT_SOURCE)
    prompts = read_entries(judge_prompts, str, IMGEDIT_SOURCE)
    criteria = {kind: imgedit.criteria_of(prompt) for kind, prompt in prompts.items()}
    for key, row in rows.items():
        if row.edit_type not in imgedit.TYPES:
            known = ", ".join(imgedit.TYPES)
            raise BenchmarkError(f"{edits}, key '{key}': edit_type '{row.edit_type}' is unknown; known: {known}")
        if (named := len(criteria.get(row.edit_type, ()))) != 3:
            raise BenchmarkError(
                f"{judge_prompts}: the prompt for '{row.edit_type}' names {named} scores, expected 3 lines "
                f"'Name: A number from 1 to 5.'; get {IMGEDIT_SOURCE}"
            )
    asked = {k: imgedit.Edit(row.prompt, row.edit_type, criteria[row.edit_type]) for k, row in rows.items()}
    return imgedit.ImgEdit(some(edits, _edit_items(rows, asked), IMGEDIT_SOURCE))


def read_imgedit_uge(edits: str) -> imgedit.ImgEditUGE:
    """ImgEdit's hard suite; its judge is asked for one score.

    Args:
        edits: `uge_edit.json`.

    Raises:
        BenchmarkError: when the file is missing or malformed, or a key stands twice.
    """
    rows = read_entries(edits, EditRow, UGE_SOURCE)
    asked = {key: imgedit.Edit(row.prompt, imgedit.UGE, ("",)) for key, row in rows.items()}
    return imgedit.ImgEditUGE(some(edits, _edit_items(rows, asked), UGE_SOURCE))


def read_gedit(urls: Sequence[str], language: str) -> gedit.GEdit:
    """GEdit's records of one language, from parquet, JSON lines, JSON or CSV.

    Args:
        urls: files with the published fields; pictures in them are not read.
        language: `en` or `cn`.

    Raises:
        BenchmarkError: when a file is missing or lacks a field, a type or language is unknown, a key stands twice, or
            no record is of the language.
    """
    gedit.check_language(language)
    rows = [placed for url in urls for placed in read_records(url, GEditRow, GEDIT_SOURCE)]
    for place, row in rows:
        if row.task_type not in gedit.TYPES:
            known = ", ".join(gedit.TYPES)
            raise BenchmarkError(f"{place}, key '{row.key}': task_type '{row.task_type}' is unknown; known: {known}")
        if row.instruction_language not in gedit.LANGUAGES:
            raise BenchmarkError(
                f"{place}, key '{row.key}': instruction_language '{row.instruction_language}' is unknown; "
                f"known: {', '.join(gedit.LANGUAGES)}"
            )
    placed = [(f"{place} (key '{row.key}')", row) for place, row in rows if row.instruction_language == language]
    chosen = [row for _, row in placed]
    unique([row.key for row in chosen], [place for place, _ in placed])
    items: list[Item[gedit.Edit]] = []
    for row in chosen:
        folder = f"fullset/{row.task_type}/{language}"
        edit = gedit.Edit(row.instruction, row.task_type, language, row.intersection)
        pictures = (f"{folder}/{row.key}.png",)
        items.append(
            Item(row.key, row.task_type, row.instruction, edit, pictures, f"{folder}/{row.key}{SOURCE_ENDING}")
        )
    return gedit.GEdit(some(f"{', '.join(urls)}, language '{language}'", items, GEDIT_SOURCE), language)


def read_wise(urls: Sequence[str], rewritten: bool = False) -> wise.Wise:
    """The first edition of WISE.

    Args:
        urls: its three files, or RecA's one.
        rewritten: whether these are the files with rewritten prompts.

    Raises:
        BenchmarkError: when a file is missing or malformed, an id stands twice or is outside 1 to 1000, or the prompts
            are those of another edition.
    """
    return wise.Wise(_wise_items(urls, "rewritten" if rewritten else ""), rewritten)


def read_wise_verified(urls: Sequence[str]) -> wise.WiseVerified:
    """The verified edition of WISE; files and errors as of `read_wise`."""
    return wise.WiseVerified(_wise_items(urls, "verified"))


def _wise_items(urls: Sequence[str], edition: str) -> tuple[Item[wise.Prompt], ...]:
    placed = [placed for url in urls for placed in read_records(url, WiseRow, WISE_SOURCE)]
    placed.sort(key=lambda pair: pair[1].prompt_id)
    unique([row.prompt_id for _, row in placed], [f"{place} (prompt_id {row.prompt_id})" for place, row in placed])
    items: list[Item[wise.Prompt]] = []
    for place, row in placed:
        group = wise.category(row.prompt_id, wise_editions.LAST_IDS[edition])
        if group is None:
            raise BenchmarkError(f"{place}: prompt_id {row.prompt_id} is outside 1 to {wise.FIRST_IDS[-1]}")
        asked = wise.Prompt(row.prompt_id, row.prompt, row.explanation)
        items.append(Item(str(row.prompt_id), group, row.prompt, asked, (f"{row.prompt_id}.png",)))
    told = [wise_editions.Row(place, row.prompt_id, row.prompt, row.category) for place, row in placed]
    wise_editions.check_edition(told, edition, WISE_SOURCE)
    return some(", ".join(urls), items, WISE_SOURCE)


def _edit_items(rows: Mapping[str, EditRow], asked: Mapping[str, imgedit.Edit]) -> list[Item[imgedit.Edit]]:
    return [Item(k, asked[k].type, row.prompt, asked[k], (f"{k}.png",), source=row.id) for k, row in rows.items()]


def _check_questions(url: str, key: str, questions: Sequence[Question]) -> None:
    where = f"{url}, item '{key}'"
    unique([q.id for q in questions], [f"{where}, row {q.row + 1}: proposition_id {q.id}" for q in questions])
    parents = {q.id: [parent for parent in q.parents if parent] for q in questions}
    for q in questions:
        for parent in parents[q.id]:
            if parent not in parents:
                raise BenchmarkError(f"{where}: question {q.id} depends on {parent}, which is not there")
    settled: set[int] = set()
    while open_ids := [i for i in parents if i not in settled]:
        ready = [i for i in open_ids if settled.issuperset(parents[i])]
        if not ready:
            raise BenchmarkError(f"{where}: questions {open_ids} depend on each other in a circle; get {DPG_SOURCE}")
        settled.update(ready)
