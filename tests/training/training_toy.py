"""A toy family with a pure loss: fast enough to train hundreds of updates in a test, with every trait the loop must
cope with.

Counts differ from sample to sample, one parameter is used by text-to-image only, one tower is frozen, dropout can be
on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reca.config import SamplingConfig, TrainingConfig
from reca.data.order import SampleOrder
from reca.models.base import Batch, Draws, Example, Geometry, LossTerm, Task, UnifiedModel
from reca.objectives import task_weights
from reca.training.feed import Slice
from reca.training.group import Group
from reca.training.job import STREAM_OF, check_config

WIDTH = 16


class ToyModel(UnifiedModel):
    family: ClassVar[str] = "toy"

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.tower = nn.Linear(WIDTH, WIDTH)
        self.trunk = nn.Linear(WIDTH, 32)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, WIDTH)
        self.only_text_to_image = nn.Parameter(torch.zeros(32))
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def seeded(cls, seed: int = 0, dropout: float = 0.0) -> Self:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return cls(dropout)

    @property
    def geometry(self) -> Geometry:
        return Geometry(4, "squash")

    def encode(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"features": self.tower(pixels.float().flatten(1)[:, :WIDTH] / 255)}

    def collate(self, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
        features = torch.from_numpy(np.stack([np.asarray(e.encoded["features"], np.float32) for e in examples]))
        return {"features": features, "length": torch.tensor([float(len(e.text)) for e in examples])}

    def draw(self, task: Task, batch: Batch, seeds: Sequence[int]) -> dict[str, Tensor]:
        rows = [torch.rand(WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return {"hidden": torch.stack(rows) < 0.5}

    def loss(self, task: Task, batch: Batch, draws: Draws) -> LossTerm:
        hidden = draws["hidden"]
        state = self.norm(self.trunk(batch["features"].masked_fill(hidden, 0.0)))
        if task == "text_to_image":
            state = state + self.only_text_to_image
        out = self.head(self.dropout(torch.relu(state))).float()
        target = batch["features"] if task != "image_to_text" else batch["length"][:, None] / 50
        return LossTerm(((out - target).square() * hidden).sum(), hidden.sum().float())

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig) -> Tensor:
        raise AssertionError("not used by training")

    def reconstruct(
        self, encoded: Mapping[str, Tensor], prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig
    ) -> Tensor:
        raise AssertionError("not used by training")

    def answer(self, encoded: Mapping[str, Tensor], questions: Sequence[str], max_new_tokens: int = 8) -> list[str]:
        raise AssertionError("not used by training")

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if not name.startswith("tower.")}

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        model = cls(float((folder / "dropout.txt").read_text()))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.to(device)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dropout.txt").write_text(str(self.dropout.p))
        save_file(self.state_dict(), folder / "model.safetensors")


@dataclass(frozen=True)
class ToyRow:
    key: str
    caption: str | None
    tensors: Mapping[str, np.ndarray]


def toy_row(stream: str, index: int, bad: int | None = None) -> ToyRow:
    features = np.random.default_rng(index).normal(size=WIDTH).astype(np.float32)
    if index == bad:
        features[3] = np.nan
    return ToyRow(f"{stream}-{index:04d}", f"question {index}\nanswer", {"features": features})


@dataclass(frozen=True)
class ToyFeed:
    """The order contract of the data room over rows made on the spot."""

    config: TrainingConfig
    group: Group
    rows: int = 50
    bad: int | None = None

    def __call__(self, start: int, stop: int) -> Iterator[Mapping[str, Slice]]:
        check_config(self.config)
        streams = {STREAM_OF[task] for task in task_weights(self.config)}
        share = self.config.batch_size // self.group.world
        for update in range(start, stop):
            first = update * self.config.batch_size + self.group.rank * share
            positions = list(range(first, first + share))
            yield {name: Slice(positions, [self._row(name, p) for p in positions]) for name in sorted(streams)}

    def _row(self, stream: str, position: int) -> ToyRow:
        index = SampleOrder(self.rows, self.config.seed, stream).sample_at(position)[1]
        return toy_row(stream, index, self.bad if stream == "images" else None)
