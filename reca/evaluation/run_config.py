"""Configuration of an evaluation on published benchmarks: plain frozen dataclasses, no torch, no ray.

Prompt files, question tables and weights are given by path, URL or hub id; nothing of them is part of this project.
"""

from dataclasses import dataclass, field
from typing import Literal

from reca.config import RANGES, ExecutionConfig, ModelConfig, SamplingConfig

GRID_CELLS = 4
"""Samples in one file of DPG-Bench in ELLA's layout."""

NO_ENDPOINT = "no endpoint is named; give its address: --context base_url=http://HOST:PORT/v1"


@dataclass(frozen=True)
class Reading:
    """How the file of a benchmark is read.

    Attributes:
        benchmark: its short name, such as `geneval`.
        samples: pictures of each item.
        edition: GenEval `long`; DPG-Bench `grid`; WISE `rewritten` or `verified`; GEdit `en` or `cn`; else empty.
    """

    benchmark: str
    samples: int = 1
    edition: str = ""


@dataclass(frozen=True)
class DrawingConfig:
    """How a model draws the pictures of a benchmark.

    Attributes:
        seed: enters the seed of every picture beside benchmark, item and sample.
        batch_size: pictures drawn at once.
        sampling: sampler settings, as the model's authors publish them for the benchmark.
    """

    seed: int = 0
    batch_size: int = 8
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


def one_by_one() -> DrawingConfig:
    """Pictures drawn one at a time."""
    return DrawingConfig(batch_size=1)


@dataclass(frozen=True)
class GenEvalConfig:
    """GenEval (arXiv 2310.11513).

    Attributes:
        prompts: `evaluation_metadata.jsonl`, or a file of the same form.
        long_prompts: whether `prompts` holds the rewritten long prompts, an edition of its own.
        detector: transformers' Mask2Former for instance segmentation: folder or hub id.
        clip: transformers' CLIP that reads colours: folder or hub id.
        object_names: text file with the detector's classes in GenEval's words, one a line; empty takes COCO's 80.
        detector_scale: longest and shortest side in pixels that the detector's pictures are resized to.
        judge_batch: pictures judged at once.
        samples: pictures of each prompt; 4 as published, RecA's BAGEL script takes 12.
        drawing: how pictures are drawn.
    """

    prompts: str = ""
    long_prompts: bool = False
    detector: str = "facebook/mask2former-swin-small-coco-instance"
    clip: str = "openai/clip-vit-large-patch14"
    object_names: str = ""
    detector_scale: tuple[int, int] = (1333, 800)
    judge_batch: int = 8
    samples: int = 4
    drawing: DrawingConfig = field(default_factory=DrawingConfig)


@dataclass(frozen=True)
class JudgeConfig:
    """Which model behind an endpoint judges; where the endpoint is, is context (`JudgingExecution`).

    Attributes:
        model: name that the endpoint knows; part of every number.
        temperature: of a reply; None leaves it to the endpoint.
        max_tokens: most tokens of a reply.
        turns: times a judge is asked when its reply cannot be read.
    """

    model: str = ""
    temperature: float | None = None
    max_tokens: int = 1400
    turns: int = 2


@dataclass(frozen=True)
class JudgingExecution(ExecutionConfig):
    """Where and how an evaluation runs, judges behind an endpoint included: context, never identity.

    Attributes:
        base_url: address of an OpenAI-compatible endpoint, up to and without `/chat/completions`.
        key_variable: environment variable that holds its key; empty when it wants none.
        concurrency: requests under way at once.
        most_cost: spending cap; 0 for none. Needs the prices.
        price_in: price of a million tokens asked.
        price_out: price of a million tokens replied.
        replies: folder (path or fsspec URL) that keeps the judge's replies; empty takes `replies` in the store.
    """

    base_url: str = ""
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    most_cost: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0
    replies: str = ""


@dataclass(frozen=True)
class DPGBenchConfig:
    """DPG-Bench (arXiv 2403.05135).

    Attributes:
        questions: `dpg_bench.csv`, or a table of the same columns.
        vlm: transformers' vision-language model that answers the questions: folder or hub id. Empty asks `judge.model`.
        cell: side in pixels of a sample where a file holds four as a 2 x 2 grid (ELLA's layout): pictures are drawn,
            or expected, so; 0 for one file a sample (RecA's).
        judge_batch: pictures, and questions, looked at together.
        samples: pictures of each item.
        drawing: how pictures are drawn.
    """

    questions: str = ""
    vlm: str = ""
    cell: int = 0
    judge_batch: int = 16
    samples: int = 4
    drawing: DrawingConfig = field(default_factory=DrawingConfig)


@dataclass(frozen=True)
class WISEConfig:
    """WISE (arXiv 2503.07265), judged behind an endpoint.

    Attributes:
        prompts: folder with the three published files of an edition, or one file with all prompts.
        edition: empty for the first; `rewritten` prompts; `verified` (2026).
        judge_prompt: text file with the place-holders `<prompt>` and `<explanation>`.
        drawing: how pictures are drawn, one for each prompt.
    """

    prompts: str = ""
    edition: Literal["", "rewritten", "verified"] = ""
    judge_prompt: str = ""
    drawing: DrawingConfig = field(default_factory=DrawingConfig)


@dataclass(frozen=True)
class ImgEditConfig:
    """ImgEdit-Bench Basic (arXiv 2505.20275), judged behind an endpoint.

    Attributes:
        edits: `basic_edit.json`.
        judge_prompts: `prompts.json`: judge prompt by edit type.
        sources: folder of the source pictures.
        drawing: how a family that edits draws them; one at a time, because sources differ in size.
    """

    edits: str = ""
    judge_prompts: str = ""
    sources: str = ""
    drawing: DrawingConfig = field(default_factory=one_by_one)


@dataclass(frozen=True)
class GEditConfig:
    """GEdit-Bench (arXiv 2504.17761), judged behind an endpoint.

    Attributes:
        records: file with the published records, or folder of parquet files as the data set has them.
        language: of the instructions.
        judge_prompts: folder with VIEScore's two prompts, `consistency.txt` and `quality.txt`.
        sources: folder of the source pictures, in the layout of the edited ones. Empty: those inside parquet records
            where a model draws, those beside the edited pictures where these are made elsewhere.
        drawing: how a family that edits draws them; one at a time, because sources differ in size.
    """

    records: str = ""
    language: Literal["en", "cn"] = "en"
    judge_prompts: str = ""
    sources: str = ""
    drawing: DrawingConfig = field(default_factory=one_by_one)


@dataclass(frozen=True)
class POPEConfig:
    """POPE (arXiv 2305.10355): is an object there?

    Attributes:
        questions: folder with the published files `coco_pope_random.json`, `..._popular.json`, `..._adversarial.json`.
        images: folder of the pictures they name (COCO val2014).
        suffix: added to every question.
        batch_size: questions asked at once.
        max_new_tokens: most tokens of an answer.
    """

    questions: str = ""
    images: str = ""
    suffix: str = ""
    batch_size: int = 16
    max_new_tokens: int = 8


@dataclass(frozen=True)
class MMEConfig:
    """MME (arXiv 2306.13394): two yes-or-no questions about each picture, in 14 tasks.

    Attributes:
        folder: one folder for each task with pictures and, for each, a text file of two lines: question, tab, answer.
        suffix: added to every question.
        batch_size: questions asked at once.
        max_new_tokens: most tokens of an answer.
    """

    folder: str = ""
    suffix: str = ""
    batch_size: int = 16
    max_new_tokens: int = 8


@dataclass(frozen=True)
class GQAConfig:
    """GQA (arXiv 1902.09506).

    Attributes:
        questions: `testdev_balanced_questions.json`, or a file of the same form.
        images: folder of the pictures, `<imageId>.jpg`.
        suffix: added to every question, such as a request to answer with one word, where the model was trained so.
        batch_size: questions asked at once.
        max_new_tokens: most tokens of an answer.
    """

    questions: str = ""
    images: str = ""
    suffix: str = ""
    batch_size: int = 16
    max_new_tokens: int = 8


@dataclass(frozen=True)
class MMMUConfig:
    """MMMU (arXiv 2311.16502), validation split: college questions with options or a short open answer.

    Attributes:
        folder: the data set MMMU/MMMU: a folder for each subject, with parquet files that hold questions and pictures.
        suffix: added to every question, behind the official request for a letter or a word.
        batch_size: questions asked at once.
        max_new_tokens: most tokens of an answer; open answers may be a phrase.
    """

    folder: str = ""
    suffix: str = ""
    batch_size: int = 16
    max_new_tokens: int = 16


@dataclass(frozen=True)
class BenchmarkRecipe:
    """The whole configuration of an evaluation.

    Attributes:
        name: recipe name, shown in the report.
        benchmarks: which ones are run, joined by commas: names of fields below.
        model: family and checkpoint that is scored.
        images: folder of pictures made elsewhere, scored instead of the model's: in the layout of the benchmark, or
            with one folder for each benchmark when several are asked for.
        compare: a second checkpoint of the same family (or a second folder of pictures, with `images`), scored alike;
            the report then holds the paired differences, second minus first.
        bootstrap: resamples over prompts for the 95 % intervals.
        judge: model behind an endpoint that judges WISE, ImgEdit, GEdit, and DPG-Bench when that names none itself.
        geneval: GenEval.
        dpgbench: DPG-Bench.
        wise: WISE.
        imgedit: ImgEdit-Bench.
        gedit: GEdit-Bench.
        pope: POPE.
        mme: MME.
        gqa: GQA.
        mmmu: MMMU.
    """

    name: str
    benchmarks: str = "geneval"
    model: ModelConfig = field(default_factory=ModelConfig)
    images: str = ""
    compare: str = ""
    bootstrap: int = 2000
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    geneval: GenEvalConfig = field(default_factory=GenEvalConfig)
    dpgbench: DPGBenchConfig = field(default_factory=DPGBenchConfig)
    wise: WISEConfig = field(default_factory=WISEConfig)
    imgedit: ImgEditConfig = field(default_factory=ImgEditConfig)
    gedit: GEditConfig = field(default_factory=GEditConfig)
    pope: POPEConfig = field(default_factory=POPEConfig)
    mme: MMEConfig = field(default_factory=MMEConfig)
    gqa: GQAConfig = field(default_factory=GQAConfig)
    mmmu: MMMUConfig = field(default_factory=MMMUConfig)


_COUNT, _NOT_NEGATIVE = "[1, inf)", "[0, inf)"
_ASKED = {"batch_size": _COUNT, "max_new_tokens": _COUNT}

EVALUATION_RANGES = {
    **RANGES,
    DrawingConfig: {"batch_size": _COUNT},
    GenEvalConfig: {"samples": _COUNT, "judge_batch": _COUNT},
    DPGBenchConfig: {"samples": _COUNT, "judge_batch": _COUNT, "cell": _NOT_NEGATIVE},
    **dict.fromkeys((POPEConfig, MMEConfig, GQAConfig, MMMUConfig), _ASKED),
    JudgeConfig: {"max_tokens": _COUNT, "turns": _COUNT},
    BenchmarkRecipe: {"bootstrap": _COUNT},
    JudgingExecution: {
        **RANGES[ExecutionConfig],
        "concurrency": _COUNT,
        **dict.fromkeys(("most_cost", "price_in", "price_out"), _NOT_NEGATIVE),
    },
}
"""Interval that a numeric field must lie in, as in `reca.config.RANGES`."""
