"""Two models without weights: one draws exactly what is asked, the other draws junk."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reca.config import EvaluationConfig, SamplingConfig
from reca.data.scenes import render
from reca.evaluation.geneval import TASKS
from reca.evaluation.minigeneval.pictures import JUNK, Pool, stack
from reca.evaluation.minigeneval.prompts import texts
from reca.evaluation.minigeneval.worlds import satisfying
from reca.evaluation.pictures import fitted
from reca.evaluation.understanding import held_out_scenes, questions
from reca.models.base import Batch, Draws, Example, Geometry, LossTerm, Task, UnifiedModel

SCORER = Path(__file__).parents[2] / "checkpoints/minigeneval_scorer"


class WeightlessModel(UnifiedModel):
    """Only draws and answers; the training half of the interface is never reached here."""

    family = "weightless"

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    @property
    def geometry(self) -> Geometry:
        return Geometry(64, "squash")

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"pixels": pixels}

    def collate(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        raise AssertionError("evaluation never collates")

    def draw(self, task: Task, batch: Batch, seeds: Sequence[int]) -> dict[str, Tensor]:
        raise AssertionError("evaluation never draws losses")

    def loss(self, task: Task, batch: Batch, draws: Draws) -> LossTerm:
        raise AssertionError("evaluation never asks for losses")

    def trainable(self) -> dict[str, nn.Parameter]:
        return {}

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "WeightlessModel":
        return cls()

    def save(self, folder: Path) -> None:
        raise AssertionError("nothing to save")


class OracleModel(WeightlessModel):
    """Draws a true scene of the prompt, copies pictures, knows every answer."""

    def __init__(self) -> None:
        super().__init__()
        pool = [p for task in TASKS for split in ("validation", "test") for p in texts(task, split)]
        self.by_text = {p.prompt: p for p in pool}
        self.answers = {
            (render(scene).tobytes(), asked): answer
            for scene, (_, _, asked, answer) in zip(held_out_scenes(200), questions(200), strict=True)
        }

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        pairs = zip(prompts, seeds, strict=True)
        scenes = [satisfying(self.by_text[t], np.random.default_rng(s), extras=False) for t, s in pairs]
        return fitted([render(scene) for scene in scenes], 64)

    def reconstruct(
        self, encoded: Mapping[str, Tensor], prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        return encoded["pixels"]

    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        pictures = encoded["pixels"].permute(0, 2, 3, 1).contiguous().numpy()
        return [self.answers[p.tobytes(), q].capitalize() + "." for p, q in zip(pictures, questions, strict=True)]


class JunkModel(WeightlessModel):
    """Draws noise, blobs, blends and the like, and answers nonsense."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        pool, kinds = Pool.load(), list(JUNK.values())
        drawn = stack([kinds[s % len(kinds)](np.random.default_rng(s), pool) for s in seeds])
        return drawn.round().clamp(0, 255).byte()

    def reconstruct(
        self, encoded: Mapping[str, Tensor], prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        return self.generate(prompts, seeds, sampling)

    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        return ["perhaps"] * len(questions)


@pytest.fixture(scope="session")
def oracle() -> OracleModel:
    return OracleModel()


@pytest.fixture(scope="session")
def junk() -> JunkModel:
    return JunkModel()


@pytest.fixture(scope="session")
def config() -> EvaluationConfig:
    return EvaluationConfig(
        prompts_per_task=20, understanding_questions=60, reconstructions=40, bootstrap=500, scorer=str(SCORER)
    )
