"""What RecA's authors report (arXiv 2509.07295), to stand beside our scores: never measured here.

Figures are in the benchmark's own unit: GenEval and WISE 0 to 1, DPG-Bench 0 to 100, ImgEdit 1 to 5, GEdit 0 to 10.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from reca.evaluation.benchmark import Totals

TABLE_2, ZOO, EDITING, VQ = "Table 2", "model zoo of the authors' README", "editing table", "appendix, copy collapse"

TITLES = {
    "geneval": "GenEval, original prompts",
    "dpgbench": "DPG-Bench",
    "wise": "WISE, first edition",
    "imgedit": "ImgEdit-Bench, Basic",
    "gedit": "GEdit-Bench, EN",
}
"""Title of a complete set under a published judge, by benchmark: what the figures belong to."""

JUDGES = {
    "geneval": ("mmdet Mask2Former Swin-S and CLIP ViT-L/14",),
    "dpgbench": ("mplug_visual-question-answering_coco_large_en",),
    "wise": ("gpt-4o-2024-05-13",),
    "imgedit": ("gpt-4o-2024-08-06",),
    "gedit": ("gpt-4.1-2025-04-14",),
}
"""Judges of the authors' scripts."""

SETTINGS = {
    ("showo", "geneval"): "12 pictures a prompt, guidance 5, 50 steps",
    ("showo", "dpgbench"): "4 pictures a prompt, guidance 5, 50 steps",
    ("showo", "wise"): "1 picture a prompt, guidance 5, 50 steps",
    ("harmon", "geneval"): "12 pictures a prompt, 512 px, scale 3, 64 steps",
    ("harmon", "dpgbench"): "512 px, scale 3, 64 steps",
    ("openuni", "geneval"): "12 pictures a prompt, scale 4.5, 20 steps, seed 42",
    ("bagel", "geneval"): "12 pictures a prompt, 1024 px, text scale 4, 50 steps, seed 0 for each prompt",
    ("bagel", "dpgbench"): "4 pictures a prompt, text scale 3",
}
"""Settings of the authors' scripts, by family and benchmark, where they are known."""


@dataclass(frozen=True)
class Reported:
    """A pair of figures before and after RecA.

    Attributes:
        family: name of the family here.
        benchmark: name of the benchmark here.
        model: which checkpoint.
        before: base model.
        after: after RecA.
        source: table of the paper, or where else the authors give it.
    """

    family: str
    benchmark: str
    model: str
    before: float
    after: float
    source: str

    @property
    def settings(self) -> str:
        """How the pictures were drawn, as far as it is known."""
        return SETTINGS.get((self.family, self.benchmark), "not known")


REPORTED = (
    Reported("showo", "geneval", "Show-o 512, CLIP", 0.662, 0.723, TABLE_2),
    Reported("showo", "dpgbench", "Show-o 512, CLIP", 82.21, 84.94, TABLE_2),
    Reported("showo", "wise", "Show-o 512, CLIP", 0.40, 0.40, TABLE_2),
    Reported("showo", "geneval", "Show-o 256, CLIP", 0.566, 0.619, ZOO),
    Reported("showo", "dpgbench", "Show-o 256, CLIP", 70.65, 75.70, ZOO),
    Reported("showo", "geneval", "Show-o 512, VQ at 256", 0.6870, 0.7061, VQ),
    Reported("showo", "dpgbench", "Show-o 512, VQ at 256", 83.63, 84.77, VQ),
    Reported("showo", "wise", "Show-o 512, VQ at 256", 0.40, 0.40, VQ),
    Reported("openuni", "geneval", "OpenUni 3.6B", 0.619, 0.741, TABLE_2),
    Reported("openuni", "dpgbench", "OpenUni 3.6B", 79.02, 82.75, TABLE_2),
    Reported("openuni", "wise", "OpenUni 3.6B", 0.43, 0.54, TABLE_2),
    Reported("openuni", "geneval", "OpenUni 1.6B", 0.560, 0.704, ZOO),
    Reported("openuni", "dpgbench", "OpenUni 1.6B", 76.29, 80.45, ZOO),
    Reported("harmon", "geneval", "Harmon 1.5B", 0.729, 0.857, TABLE_2),
    Reported("harmon", "dpgbench", "Harmon 1.5B", 80.93, 87.21, TABLE_2),
    Reported("harmon", "wise", "Harmon 1.5B", 0.41, 0.50, TABLE_2),
    Reported("harmon", "geneval", "Harmon 0.5B", 0.676, 0.787, ZOO),
    Reported("harmon", "dpgbench", "Harmon 0.5B", 80.12, 84.67, ZOO),
    Reported("bagel", "geneval", "BAGEL", 0.788, 0.824, TABLE_2),
    Reported("bagel", "dpgbench", "BAGEL", 84.03, 85.29, TABLE_2),
    Reported("bagel", "wise", "BAGEL", 0.50, 0.52, TABLE_2),
    Reported("bagel", "imgedit", "BAGEL", 3.38, 3.75, EDITING),
    Reported("bagel", "gedit", "BAGEL", 6.94, 7.27, EDITING),
)
"""The model zoo gives figures after RecA and gains; figures before are their differences."""


def reported(family: str, benchmark: str) -> tuple[Reported, ...]:
    """The authors' figures for a family on a benchmark; none where they give none."""
    return tuple(row for row in REPORTED if (row.family, row.benchmark) == (family, benchmark))


def difference_in_kind(benchmark: str, sides: Sequence[Totals]) -> str:
    """Why our scores must not be compared with the authors' figures; empty where judge, set and edition are theirs."""
    for totals in sides:
        if totals.judge not in JUDGES[benchmark]:
            return f"judged by {totals.judge}, theirs by {' or '.join(JUDGES[benchmark])}"
        if totals.benchmark != TITLES[benchmark]:
            return f"ours is {totals.benchmark}, theirs {TITLES[benchmark]}"
    return ""
