"""What the training benchmarks share: a tiny Show-o and encoded pictures of the built-in world."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reca.config import TrainingConfig
from reca.data.decode import decode
from reca.data.encoded import EncodedWriter, compact
from reca.data.fit import fit
from reca.data.sets import Row, instruction_row, unlabeled_row
from reca.models.base import UnifiedModel
from reca.models.showo.model import ShowoModel
from reca.pretraining.showo import FAMILY

BATCH, ROWS = 64, 1024
CONFIG = TrainingConfig(batch_size=BATCH, warmup_updates=5, checkpoint_every=1000)


def load_model(folder: Path) -> ShowoModel:
    """A fresh copy of the model that `build_inputs` wrote into `folder`."""
    return ShowoModel.load(folder / "base")


def pixels_of(row: Row) -> NDArray[np.uint8]:
    """Decoded picture of a row, uint8 [3, 64, 64], RGB."""
    return fit(decode(row.image), 64, "squash")


def build_inputs(folder: Path) -> None:
    """Write random weights of the tiny sizes and two encoded sets of `ROWS` rows below `folder`."""
    torch.manual_seed(0)
    model = FAMILY.build(FAMILY.new_tokenizer(), seed=0).eval()
    model.save(folder / "base")
    _encode(model, folder / "images", unlabeled_row)
    _encode(model, folder / "instructions", instruction_row)


def _encode(model: UnifiedModel, folder: Path, make: Callable[[int, int], Row]) -> None:
    folder.mkdir()
    with EncodedWriter(folder) as writer:
        for first in range(0, ROWS, BATCH):
            rows = [make(index, 0) for index in range(first, first + BATCH)]
            with torch.no_grad():
                encoded = model.encode(torch.from_numpy(np.stack([pixels_of(row) for row in rows])))
            tensors = {name: compact(rows[0].key, name, value.numpy()) for name, value in encoded.items()}
            writer.add([row.key for row in rows], [row.caption for row in rows], tensors)
        writer.close({})
