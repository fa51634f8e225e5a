"""DPG-Bench, WISE, ImgEdit and GEdit judged behind an endpoint: which questions each one asks."""

from typing import Any

from reca.evaluation import judging
from reca.evaluation.benchmark import Benchmark
from reca.evaluation.judge_client import JudgeClient
from reca.evaluation.judge_client import JudgeConfig as ClientConfig
from reca.evaluation.picture_files import Pictures, require_sources
from reca.evaluation.prompt_files import IMGEDIT_SOURCE, WISE_SOURCE
from reca.evaluation.records import BenchmarkError, Record
from reca.evaluation.run_config import NO_ENDPOINT, JudgeConfig, JudgingExecution
from reca.evaluation.tables import read_entries, read_text
from reca.evaluation.wise import WiseVerified
from reca.evaluation.wise_editions import check_judge_prompt

VIESCORE_SOURCE = "VIEScore's prompts, as in github stepfun-ai/Step1X-Edit"


def client_of(judge: JudgeConfig, execution: JudgingExecution, replies: str) -> JudgeClient:
    """A client of the configured endpoint.

    Args:
        judge: which model.
        execution: where the endpoint is, and how hard to press it.
        replies: folder that keeps replies when `execution` names none.

    Raises:
        BenchmarkError: when the address is not given.
        JudgeError: when the key's variable is not set, or a cap is set without prices.
    """
    if not execution.base_url:
        raise BenchmarkError(NO_ENDPOINT)
    config = ClientConfig(
        base_url=execution.base_url,
        model=judge.model,
        key_variable=execution.key_variable,
        temperature=judge.temperature,
        max_tokens=judge.max_tokens,
        concurrency=execution.concurrency,
        price_in=execution.price_in,
        price_out=execution.price_out,
        most_cost=execution.most_cost or None,
    )
    return JudgeClient(config, execution.replies or replies)


def judge_all(
    benchmark: str,
    bench: Benchmark[Any, Any],
    client: JudgeClient,
    pictures: Pictures,
    prompts: str,
    originals: str,
    judge: JudgeConfig,
    cell: int = 0,
) -> list[Record[Any, Any]]:
    """Ask about every picture found.

    Args:
        benchmark: `dpgbench`, `wise`, `imgedit` or `gedit`.
        bench: its items and rules.
        client: the judge.
        pictures: of `find_pictures` on the same items.
        prompts: judge prompts: WISE's text file, ImgEdit's JSON file, GEdit's folder; not used by DPG-Bench.
        originals: folder of the pictures that were edited.
        judge: how often an unreadable reply is asked for again.
        cell: DPG-Bench: side of a sample in a 2 x 2 grid; 0 for one sample a file.

    Raises:
        BenchmarkError: when source pictures or judge prompts are missing, or a prompt lacks a place-holder.
        JudgeError: when the judge cannot be used at all; replies so far are kept.
    """
    judged = [item for item in bench.items if any((item.key, n) in pictures.found for n in range(len(item.pictures)))]
    if any(item.source for item in judged):
        advice = f"give the folder of the pictures that were edited: --set {benchmark}.sources=DIR"
        require_sources(originals, judged, advice)
    questions, seen = questions_of(benchmark, bench, prompts, originals, cell)
    return judging.judge_pictures(bench, client, pictures, questions, seen, judge.turns)


def questions_of(
    benchmark: str, bench: Benchmark[Any, Any], prompts: str, originals: str = "", cell: int = 0
) -> tuple[Any, Any]:
    """What is asked about a picture, and what the rules read out of the replies.

    Args:
        benchmark: `dpgbench`, `wise`, `imgedit` or `gedit`.
        bench: its items and rules.
        prompts: judge prompts, as in `judge_all`.
        originals: folder of the pictures that were edited; not looked at here.
        cell: as in `judge_all`.

    Returns:
        Arguments `questions` and `seen` of `judging.judge_pictures`.

    Raises:
        BenchmarkError: when judge prompts are missing, lack a place-holder, or are of another edition.
        ValueError: another benchmark.
    """
    match benchmark:
        case "dpgbench":
            return judging.dpgbench_questions(cell or None), judging.answers_by_cell
        case "wise":
            text = read_text(prompts, WISE_SOURCE)
            check_judge_prompt(text, isinstance(bench, WiseVerified), prompts)
            return judging.wise_questions(text, name=prompts), judging.one_reply
        case "imgedit":
            texts = read_entries(prompts, str, IMGEDIT_SOURCE)
            return judging.imgedit_questions(texts, originals, f"{prompts}, judge prompt"), judging.one_reply
        case "gedit":
            places = [f"{prompts.rstrip('/')}/{name}.txt" for name in ("consistency", "quality")]
            consistency, quality = (read_text(place, VIESCORE_SOURCE) for place in places)
            return judging.gedit_questions(consistency, quality, originals, places[0]), judging.two_replies
        case other:
            raise ValueError(f"{other!r} is not judged behind an endpoint")
