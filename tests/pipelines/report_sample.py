"""A report with realistic figures: real scenes of the built-in world, made-up scores."""

import io

import numpy as np
from PIL import Image

from pipelines.dsl.runview import Decision, NodeView, RunView
from pipelines.report import (
    Accounting,
    CeilingRow,
    Difference,
    GateRow,
    GridRow,
    LossCurve,
    Measure,
    Picture,
    PictureGrid,
    ReportData,
    ScoreRow,
    ScoreTable,
)
from reca.data.scenes import dense_caption, render, sample_scene

TASKS = {
    "single object": (0.99, 1.0, 0.01, -0.01, 0.03),
    "two objects": (0.41, 0.78, 0.37, 0.26, 0.48),
    "counting": (0.16, 0.19, 0.03, -0.07, 0.13),
    "colors": (0.17, 0.93, 0.76, 0.66, 0.84),
    "position": (0.32, 0.18, -0.14, -0.24, -0.04),
    "color attribution": (0.02, 0.21, 0.19, 0.11, 0.27),
}


def png(pixels: np.ndarray) -> bytes:
    """PNG bytes of uint8 [H, W, 3]."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def blurred(data: bytes, rng: np.random.Generator) -> bytes:
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)
    return png(np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8))


def grids(rng: np.random.Generator) -> tuple[PictureGrid, PictureGrid]:
    def scene() -> tuple[str, bytes]:
        drawn = sample_scene(rng)
        return dense_caption(drawn), png(render(drawn))

    prompts: list[GridRow] = []
    for index in range(24):
        text, data = scene()
        before = Picture(blurred(data, rng), passed=index % 3 == 0, note="2 dogs asked, 1 found" if index % 3 else "")
        prompts.append(GridRow(text.split(" and ")[0], (before, Picture(data, passed=index % 5 != 0))))
    rebuilt: list[GridRow] = []
    for _ in range(12):
        text, data = scene()
        rebuilt.append(GridRow(text, (Picture(data), Picture(blurred(data, rng)), Picture(blurred(data, rng)))))
    return (
        PictureGrid(("base", "RecA"), tuple(prompts), "Four prompts of each task, the first of the test list."),
        PictureGrid(("original", "base", "RecA"), tuple(rebuilt), "The first twelve held-out pictures."),
    )


def run_view() -> RunView:
    def node(name: str, upstream: tuple[str, ...], decision: Decision, reason: str, wall: float) -> NodeView:
        return NodeView(
            name, name.split(" ")[0], name.encode().hex()[:40], upstream, decision, reason, wall, wall * 1.6
        )

    same = "key unchanged and artifact intact"
    trained_on = ("encode", "encode instructions", "gates")
    nodes = (
        node("compose", (), "reuse", same, 4.1),
        node("prepare", ("compose",), "reuse", same, 9.4),
        node("prepare instructions", ("compose",), "reuse", same, 6.2),
        node("encode", ("prepare",), "reuse", same, 31.5),
        node("encode instructions", ("prepare instructions",), "reuse", same, 24.0),
        node("evaluate base", ("compose",), "run", "code changed: reca.evaluation.geneval.verdict", 58.2),
        node("gates", ("evaluate base",), "run", "upstream evaluate base made again", 0.4),
        node("train", trained_on, "run", "training.updates changed from 900 to 1400", 331.0),
        node("evaluate tuned", ("train", "compose"), "run", "upstream train made again", 59.9),
    )
    recipe = {
        "name": "tiny_showo",
        "data": {"source": "twemoji", "images": 8192, "seed": 20},
        "training": {"updates": 1400, "learning_rate": 1e-3, "betas": [0.9, 0.999], "lambda_t2i": 0.5},
    }
    environment = {
        "python": "3.11.7",
        "packages": {"ray": "2.60.0", "torch": "2.13.0"},
        "commit": "71e61ca",
        "dirty": False,
    }
    origins = {"training.updates": "--set; recipe tiny_showo says 1000"}
    return RunView("20261122-030000-ab12", "reca", recipe, origins, nodes, "/tmp/store", environment)


def difference(row: tuple[float, float, float, float, float]) -> Difference:
    return Difference(*row[2:])


def make_report() -> ReportData:
    rng = np.random.default_rng(5)
    prompts, rebuilt = grids(rng)
    steps = np.arange(1, 1401)
    recon = 0.6 + 3.4 * np.exp(-steps / 260) + rng.normal(0, 0.07, len(steps))
    answers = 0.31 + 0.2 * np.exp(-steps / 500) + rng.normal(0, 0.03, len(steps))
    rows = tuple(ScoreRow(task, 100, row[0], row[1], difference(row)) for task, row in TASKS.items())
    return ReportData(
        title="RecA on tiny Show-o, recipe tiny_showo",
        run=run_view(),
        scores=ScoreTable(
            overall=ScoreRow("overall", 600, 0.345, 0.548, Difference(0.203, 0.164, 0.242)),
            tasks=rows,
            strict=ScoreRow("overall, strict", 600, 0.301, 0.402, Difference(0.101, 0.060, 0.140)),
            objects_before=2.51,
            objects_after=3.42,
            sampler="guidance 2, 12 steps, temperature 1",
        ),
        prompt_grid=prompts,
        reconstruction_grid=rebuilt,
        reconstruction=(
            Measure("class recall", 498, 0.34, 0.93, difference=Difference(0.59, 0.54, 0.63)),
            Measure("PSNR", 200, 12.31, 21.84, unit="dB"),
        ),
        understanding=(Measure("accuracy", 500, 0.912, 0.908, difference=Difference(-0.004, -0.016, 0.008)),),
        curves=(
            LossCurve("reconstruction", tuple(map(int, steps)), tuple(map(float, recon))),
            LossCurve("image to text", tuple(map(int, steps)), tuple(map(float, answers))),
        ),
        training={"updates": "1,400", "images seen": "89,600", "waiting for data": "1.8 %"},
        gates=(GateRow("single object", 0.99, 0.95, passed=True), GateRow("colors", 0.17, 0.125, passed=True)),
        ceilings=tuple(
            CeilingRow(t, {"clean": 1.0, "blur": 0.99}, {"clean": 1.0, "blur": 0.998}, 0.002) for t in TASKS
        ),
        accounting=(Accounting("images", 8200, 8192, {"truncated file": 5, "shorter side below 16 px": 3}),),
        provenance={"training seed": "0", "checkpoint digest": "9f2c51"},
        notes=(
            "Board world: sprites on a 16 px lattice.",
            "Caption replay is on (lambda_t2i 0.5): a departure from the paper.",
        ),
        attribution="Emoji graphics © Twitter, Inc and other contributors, CC-BY 4.0, resized and recoloured.",
        before="base",
        after="RecA",
    )
