"""The benchmarks of an evaluation: which files each one needs, and which stages give its records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.artifacts import Checkpoint
from pipelines.benchmark_artifacts import Drawn, Judged
from pipelines.benchmark_stages import (
    ask,
    draw,
    draw_edits,
    judge_dpgbench,
    judge_endpoint,
    judge_geneval,
    weights_at,
)
from pipelines.dsl import External, SettingsError
from reca.evaluation.run_config import (
    GRID_CELLS,
    BenchmarkRecipe,
    DrawingConfig,
    GQAConfig,
    JudgeConfig,
    MMEConfig,
    MMMUConfig,
    POPEConfig,
    Reading,
)
from reca.models import EDITORS, can_edit

TEXTS = (".jsonl", ".json", ".csv")
"""Endings of GEdit's records that hold no pictures; other places are parquet files, or folders of them."""

NAMES = "a text file with the detector's classes in GenEval's words, one a line,"


@dataclass(frozen=True)
class Side:
    """What is scored: a model, or pictures made elsewhere.

    Attributes:
        label: its name in the tables.
        model: the loaded checkpoint; None for pictures made elsewhere.
        images: folder of pictures made elsewhere, with one folder for each benchmark when `several` are asked for.
        several: whether more than one benchmark is asked for.
    """

    label: str
    model: Checkpoint | None
    images: str
    several: bool

    def made(self, benchmark: str) -> External:
        """Folder of a benchmark's pictures made elsewhere."""
        if self.several:
            advice = f"with several benchmarks, --images DIR holds one folder for each: DIR/{benchmark}"
            return External(f"{self.images.rstrip('/')}/{benchmark}", advice=advice)
        return External(self.images, advice="give the folder that holds the pictures: --images DIR")

    def pictures(self, source: External, reading: Reading, drawing: DrawingConfig) -> Drawn | External:
        """Draw a benchmark's pictures, or name the folder where they lie."""
        if self.model is None:
            return self.made(reading.benchmark)
        return draw.named(f"draw {reading.benchmark}, {self.label}")(self.model, source, reading, drawing)


@dataclass(frozen=True)
class Chosen:
    """A benchmark of a recipe.

    Attributes:
        source: its prompts or questions.
        reading: how they are read.
        judge: calls the stages that give its records.
        prompts: judge prompts; None where there are none.
        names: class words of GenEval's detector; None takes COCO's.
        drawn: whether it is about pictures that a model draws, which may take hours.
    """

    source: External
    reading: Reading
    judge: Callable[[Side], Judged]
    prompts: External | None = None
    names: External | None = None
    drawn: bool = True

    def check(self) -> None:
        """Refuse files that would stop a stage after pictures are drawn. Questions about given pictures are left out:
        the stage that reads them is the first one.

        Raises:
            SettingsError: naming file and place, and where to get the right one.
        """
        from reca.evaluation.checking import check_files
        from reca.evaluation.records import BenchmarkError

        if not self.drawn:
            return
        prompts, names = (external.place if external else "" for external in (self.prompts, self.names))
        try:
            check_files(self.reading, self.source.place, prompts, names)
        except BenchmarkError as error:
            raise SettingsError(str(error)) from error


def geneval(recipe: BenchmarkRecipe) -> Chosen:
    """GenEval with detector and CLIP."""
    config = recipe.geneval
    source = needed(config.prompts, "geneval.prompts", "evaluation_metadata.jsonl of github djghosh13/geneval")
    reading = Reading("geneval", config.samples, "long" if config.long_prompts else "")
    names = needed(config.object_names, "geneval.object_names", NAMES) if config.object_names else None

    def judge(side: Side) -> Judged:
        return judge_geneval.named(f"judge geneval, {side.label}")(
            side.pictures(source, reading, config.drawing),
            source,
            weights_at(config.detector, "geneval.detector"),
            weights_at(config.clip, "geneval.clip"),
            names,
            reading,
            config.detector_scale,
            config.judge_batch,
        )

    return Chosen(source, reading, judge, names=names)


def dpgbench(recipe: BenchmarkRecipe) -> Chosen:
    """DPG-Bench with a vision-language model of transformers, or with the judge behind the endpoint.

    Raises:
        SettingsError: when a batch of drawings does not hold whole grids.
    """
    config = recipe.dpgbench
    source = needed(config.questions, "dpgbench.questions", "dpg_bench.csv of github TencentQQGYLab/ELLA")
    batch = config.drawing.batch_size
    if config.cell and not recipe.images and batch % GRID_CELLS:
        raise SettingsError(
            f"dpgbench.drawing.batch_size is {batch}; with dpgbench.cell a file holds {GRID_CELLS} samples, so take a "
            f"multiple of {GRID_CELLS}"
        )
    reading = Reading("dpgbench", config.samples, "grid" if config.cell else "")

    def judge(side: Side) -> Judged:
        pictures, name = side.pictures(source, reading, config.drawing), f"judge dpgbench, {side.label}"
        if config.vlm:
            vlm = weights_at(config.vlm, "dpgbench.vlm")
            return judge_dpgbench.named(name)(pictures, source, vlm, reading, config.cell, config.judge_batch)
        return judge_endpoint.named(name)(pictures, source, None, None, reading, asked_judge(recipe), config.cell)

    return Chosen(source, reading, judge)


def wise(recipe: BenchmarkRecipe) -> Chosen:
    """WISE with the judge behind the endpoint."""
    config = recipe.wise
    source = needed(config.prompts, "wise.prompts", "data or data_verified of github PKU-YuanGroup/WISE")
    prompts = needed(config.judge_prompt, "wise.judge_prompt", "the judge prompt of github PKU-YuanGroup/WISE as text")
    reading = Reading("wise", 1, config.edition)

    def judge(side: Side) -> Judged:
        pictures = side.pictures(source, reading, config.drawing)
        stage = judge_endpoint.named(f"judge wise, {side.label}")
        return stage(pictures, source, prompts, None, reading, asked_judge(recipe), 0)

    return Chosen(source, reading, judge, prompts)


def imgedit(recipe: BenchmarkRecipe) -> Chosen:
    """ImgEdit-Bench with the judge behind the endpoint."""
    config, place = recipe.imgedit, "Benchmark/Basic of github PKU-YuanGroup/ImgEdit"
    source = needed(config.edits, "imgedit.edits", f"basic_edit.json in {place}")
    prompts = needed(config.judge_prompts, "imgedit.judge_prompts", f"prompts.json in {place}")
    originals = needed(config.sources, "imgedit.sources", "the source pictures (Benchmark.tar of ImgEdit)")
    return edited(recipe, source, Reading("imgedit"), prompts, originals, config.drawing)


def gedit(recipe: BenchmarkRecipe) -> Chosen:
    """GEdit-Bench with the judge behind the endpoint.

    Raises:
        SettingsError: when a model draws and neither parquet records nor a folder hold the source pictures.
    """
    config, place = recipe.gedit, "the data set stepfun-ai/GEdit-Bench on the Hugging Face hub"
    source = needed(config.records, "gedit.records", place)
    prompts = needed(config.judge_prompts, "gedit.judge_prompts", "VIEScore's prompts, consistency.txt and quality.txt")
    originals = needed(config.sources, "gedit.sources", f"source pictures of {place}") if config.sources else None
    if originals is None and not recipe.images and config.records.lower().endswith(TEXTS):
        raise SettingsError(
            f"gedit.sources is not set and {config.records} is no parquet file, which could hold the pictures; get the "
            f"source pictures of {place} and give their folder: --set gedit.sources=DIR"
        )
    return edited(recipe, source, Reading("gedit", 1, config.language), prompts, originals, config.drawing)


def edited(
    recipe: BenchmarkRecipe,
    source: External,
    reading: Reading,
    prompts: External,
    originals: External | None,
    drawing: DrawingConfig,
) -> Chosen:
    """A benchmark of edited pictures.

    Args:
        recipe: says which model draws, or where the pictures lie.
        source: the edits.
        reading: how they are read.
        prompts: judge prompts.
        originals: source pictures; None takes GEdit's records where a model draws, else those beside the edited ones.
        drawing: how a model draws.

    Raises:
        SettingsError: when the pictures are to be drawn by a family that does not edit.
    """
    name = reading.benchmark
    if not recipe.images and not can_edit(recipe.model.family):
        raise SettingsError(
            f"{name} edits pictures, and model.family={recipe.model.family} does not; families that do: "
            f"{', '.join(sorted(EDITORS))}. Or make the pictures elsewhere and name their folder: --images DIR"
        )

    def judge(side: Side) -> Judged:
        pictures: Drawn | External = side.made(name)
        if side.model is not None:
            stage = draw_edits.named(f"draw {name}, {side.label}")
            pictures = stage(side.model, source, prompts, originals or source, reading, drawing)
        ask_judge = judge_endpoint.named(f"judge {name}, {side.label}")
        return ask_judge(pictures, source, prompts, originals, reading, asked_judge(recipe), 0)

    return Chosen(source, reading, judge, prompts)


def pope(recipe: BenchmarkRecipe) -> Chosen:
    """POPE: the model answers."""
    config = recipe.pope
    source = needed(config.questions, "pope.questions", "the folder output/coco of github AoiDragon/POPE")
    images = needed(config.images, "pope.images", "the pictures of COCO val2014")
    return answered(recipe, source, images, Reading("pope"), config)


def mme(recipe: BenchmarkRecipe) -> Chosen:
    """MME: the model answers."""
    config = recipe.mme
    source = needed(config.folder, "mme.folder", "MME_Benchmark_release_version of MME's authors")
    return answered(recipe, source, source, Reading("mme"), config)


def gqa(recipe: BenchmarkRecipe) -> Chosen:
    """GQA: the model answers."""
    config, place = recipe.gqa, "cs.stanford.edu/people/dorarad/gqa"
    source = needed(config.questions, "gqa.questions", f"testdev_balanced_questions.json from {place}")
    images = needed(config.images, "gqa.images", f"the pictures from {place}")
    return answered(recipe, source, images, Reading("gqa"), config)


def mmmu(recipe: BenchmarkRecipe) -> Chosen:
    """MMMU: the model answers."""
    config = recipe.mmmu
    source = needed(config.folder, "mmmu.folder", "the data set MMMU/MMMU on the Hugging Face hub")
    return answered(recipe, source, source, Reading("mmmu"), config)


def answered(
    recipe: BenchmarkRecipe,
    source: External,
    images: External,
    reading: Reading,
    config: POPEConfig | MMEConfig | GQAConfig | MMMUConfig,
) -> Chosen:
    """A benchmark of questions about given pictures.

    Raises:
        SettingsError: when there is no model to ask.
    """
    if recipe.images:
        raise SettingsError(f"{reading.benchmark} asks a model; give --model and --checkpoint instead of --images")

    def judge(side: Side) -> Judged:
        assert side.model is not None  # `recipe.images` is empty
        stage = ask.named(f"ask {reading.benchmark}, {side.label}")
        return stage(side.model, source, images, reading, config.batch_size, config.max_new_tokens, config.suffix)

    return Chosen(source, reading, judge, drawn=False)


BENCHMARKS: Mapping[str, Callable[[BenchmarkRecipe], Chosen]] = {
    function.__name__: function for function in (geneval, dpgbench, wise, imgedit, gedit, pope, mme, gqa, mmmu)
}
"""Benchmarks by the name that `--benchmarks` takes."""


def chosen(recipe: BenchmarkRecipe) -> list[Chosen]:
    """The benchmarks of a recipe, each once.

    Raises:
        SettingsError: unknown name, or a file that a benchmark needs is not given.
    """
    names = list(dict.fromkeys(name.strip() for name in recipe.benchmarks.split(",")))
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise SettingsError(f"there is no benchmark {unknown[0]!r}; benchmarks are {', '.join(BENCHMARKS)}")
    return [BENCHMARKS[name](recipe) for name in names]


def asked_judge(recipe: BenchmarkRecipe) -> JudgeConfig:
    """The judge behind the endpoint.

    Raises:
        SettingsError: when none is named.
    """
    if not recipe.judge.model:
        raise SettingsError("judge.model is not set; name the judge as the endpoint knows it: --set judge.model=NAME")
    return recipe.judge


def needed(place: str, setting: str, source: str) -> External:
    """A file that the user has to give.

    Raises:
        SettingsError: when it is not given; the message says where to get it.
    """
    advice = f"get {source} and give its path or URL: --set {setting}=PATH"
    if not place:
        raise SettingsError(f"{setting} is not set; {advice}")
    return External(place, advice=advice)
