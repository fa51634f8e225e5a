"""Configuration of an evaluation on published benchmarks: plain frozen dataclasses, no torch, no ray.

Prompt files, question tables and weights are given by path, URL or hub id; nothing of them is part of this project.
"""

from dataclasses import dataclass, field

from reca.config import ModelConfig, SamplingConfig


@dataclass(frozen=True)
class Reading:
    """How the file of a benchmark is read.

    Attributes:
        benchmark: its short name, such as `geneval`.
        samples: pictures of each item.
        long_prompts: GenEval: whether the file holds the rewritten prompts.
    """

    benchmark: str
    samples: int = 1
    long_prompts: bool = False


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
class EndpointConfig:
    """A judge behind an OpenAI-compatible endpoint; its key is read from the environment.

    Attributes:
        base_url: up to and without `/chat/completions`.
        model: name that the endpoint knows.
        key_variable: environment variable that holds the key; empty when the endpoint wants none.
        concurrency: requests under way at once.
        most_cost: spending cap; 0 for none. Needs the prices.
        price_in: price of a million tokens asked.
        price_out: price of a million tokens replied.
    """

    base_url: str = ""
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    most_cost: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0


@dataclass(frozen=True)
class DPGBenchConfig:
    """DPG-Bench (arXiv 2403.05135).

    Attributes:
        questions: `dpg_bench.csv`, or a table of the same columns.
        judge: transformers' vision-language model that answers the questions: folder or hub id. Empty takes `endpoint`.
        endpoint: judge that is asked instead of a model of our own.
        judge_batch: questions asked at once.
        samples: pictures of each item.
        drawing: how pictures are drawn.
    """

    questions: str = ""
    judge: str = ""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    judge_batch: int = 16
    samples: int = 4
    drawing: DrawingConfig = field(default_factory=DrawingConfig)


@dataclass(frozen=True)
class POPEConfig:
    """POPE (arXiv 2305.10355): is an object there?

    Attributes:
        questions: folder with the published files `coco_pope_random.json`, `..._popular.json`, `..._adversarial.json`.
        images: folder of the pictures they name (COCO val2014).
        batch_size: questions asked at once.
        max_new_tokens: most tokens of an answer.
    """

    questions: str = ""
    images: str = ""
    batch_size: int = 16
    max_new_tokens: int = 8


@dataclass(frozen=True)
class MMEConfig:
    """MME (arXiv 2306.13394): two yes-or-no questions about each picture, in 14 tasks.

    Attributes:
        folder: one folder for each task with pictures and, for each, a text file of two lines: question, tab, answer.
        batch_size: questions asked at once.
        max_new_tokens: most tokens of an answer.
    """

    folder: str = ""
    batch_size: int = 16
    max_new_tokens: int = 8


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
        geneval: GenEval.
        dpgbench: DPG-Bench.
        pope: POPE.
        mme: MME.
    """

    name: str
    benchmarks: str = "geneval"
    model: ModelConfig = field(default_factory=ModelConfig)
    images: str = ""
    compare: str = ""
    bootstrap: int = 2000
    geneval: GenEvalConfig = field(default_factory=GenEvalConfig)
    dpgbench: DPGBenchConfig = field(default_factory=DPGBenchConfig)
    pope: POPEConfig = field(default_factory=POPEConfig)
    mme: MMEConfig = field(default_factory=MMEConfig)
