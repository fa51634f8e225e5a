"""The frozen scorer: pictures in, GenEval-style detections out. Versioned by the digest of its weights."""

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from reca.data.scenes import CANVAS, CLASSES, COLORS
from reca.evaluation.geneval import Detection, Options
from reca.evaluation.minigeneval.network import STRIDE, Maps, ScorerNetwork

SIZE_UNIT = 16.0
"""Pixels in one unit of the size map."""

SHARPNESS = 2.0
"""Factor on the heat logits. The focal loss stops pushing early: true peaks of held-out scenes sat at 0.94 (1 in 100
below 0.87) with no false peak above 0.1, so GenEval's 0.9 for counting refused clear objects. 0.5 stays 0.5."""

FLOOR = 0.1
"""Peaks below this score are not reported; every threshold of the rules lies above it."""

OPTIONS = Options(threshold=0.5)
"""MiniGenEval's thresholds: GenEval's, but 0.5 for 0.3 (fixed with the junk gate, before any model was scored)."""

BATCH = 64
"""Pictures in a forward pass."""

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class ScorerError(ValueError):
    """A scorer folder that cannot be used."""


class Scorer:
    """A trained detector.

    Args:
        network: the network; put into evaluation mode.
        card: training recipe, seed, versions and measured ceiling, kept beside the weights.
    """

    def __init__(self, network: ScorerNetwork, card: dict[str, Any] | None = None) -> None:
        self.network = network.eval()
        self.card = card or {}

    @property
    def digest(self) -> str:
        """blake2b-128 hex of all weights: the version that stands beside every score."""
        state = blake2b(digest_size=16)
        for name, tensor in sorted(self.network.state_dict().items()):
            state.update(name.encode())
            state.update(tensor.contiguous().cpu().numpy().tobytes())
        return state.hexdigest()

    @torch.inference_mode()
    def detect(self, images: NDArray[np.uint8] | Tensor) -> list[list[Detection]]:
        """Detections of each picture, best first.

        Args:
            images: uint8 [B, 3, S, S], RGB; other sides than 64 are resampled (antialiased); boxes are in 64 px space.

        Raises:
            ScorerError: when the pictures are not uint8 [B, 3, S, S].
        """
        pixels = torch.as_tensor(images)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ScorerError(f"pictures are {pixels.dtype} {tuple(pixels.shape)}; give uint8 [B, 3, S, S]")
        found: list[list[Detection]] = []
        for chunk in pixels.cpu().split(BATCH):
            found += decode(self.network(normalize(fit(chunk))))
        return found

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.network.state_dict().items()}, folder / WEIGHTS)
        text = json.dumps({**self.card, "classes": CLASSES, "colors": COLORS, "digest": self.digest}, indent=1)
        (folder / CONFIG).write_text(text + "\n")

    @classmethod
    def load(cls, folder: Path | str) -> "Scorer":
        """Read a scorer folder and check it against its digest.

        Raises:
            ScorerError: naming the folder, on missing files, other classes or colours, misshaped or altered weights.
        """
        folder = Path(folder)
        retrain = "train one with `python -m reca.evaluation.minigeneval.training --out FOLDER`"
        try:
            card = json.loads((folder / CONFIG).read_text())
            weights = load_file(folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise ScorerError(f"no readable scorer in {folder} ({error}); {retrain}") from error
        if (tuple(card["classes"]), tuple(card["colors"])) != (CLASSES, COLORS):
            raise ScorerError(f"the scorer in {folder} knows other classes or colours than this world; {retrain}")
        network = ScorerNetwork(len(CLASSES), len(COLORS))
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ScorerError(f"weights in {folder / WEIGHTS} do not fit the network: {error}; {retrain}") from error
        scorer = cls(network, card)
        if scorer.digest != card["digest"]:
            raise ScorerError(f"{folder / WEIGHTS} was altered: its digest is {scorer.digest}; {retrain}")
        return scorer


def fit(pixels: Tensor) -> Tensor:
    """Bring pictures uint8 [B, 3, S, S] to float32 [B, 3, 64, 64] in 0 to 255; bilinear, antialiased."""
    values = pixels.float()
    if values.shape[-2:] == (CANVAS, CANVAS):
        return values
    return functional.interpolate(values, size=(CANVAS, CANVAS), mode="bilinear", antialias=True)


def normalize(values: Tensor) -> Tensor:
    """Values float of any shape in 0 to 255 to -1 to 1."""
    return values / 127.5 - 1.0


def decode(maps: Maps) -> list[list[Detection]]:
    """Peaks of the heat maps to detections, best first.

    A peak is the largest value of its class within 2 grid points (8 px; true centres are at least 24 px apart).

    Args:
        maps: of B pictures.

    Returns:
        Detections of each, with scores above `FLOOR`; boxes are in pixels of the 64 px picture.
    """
    heat = (SHARPNESS * maps.heat).sigmoid()
    peaks = heat * (heat == functional.max_pool2d(heat, 5, 1, 2)) * (heat > FLOOR)
    color = maps.color.argmax(dim=1)
    found: list[list[Detection]] = [[] for _ in range(len(heat))]
    for picture, name, row, column in peaks.nonzero().tolist():
        dx, dy = maps.offset[picture, :, row, column].tolist()
        half_width, half_height = (maps.size[picture, :, row, column] * SIZE_UNIT / 2).tolist()
        x, y = (column + dx) * STRIDE, (row + dy) * STRIDE
        box = (x - half_width, y - half_height, x + half_width, y + half_height)
        score = float(heat[picture, name, row, column])
        found[picture].append(Detection(CLASSES[name], box, score, COLORS[int(color[picture, row, column])]))
    return [sorted(items, key=lambda d: -d.score) for items in found]


def objects_per_picture(found: Sequence[Sequence[Detection]]) -> float:
    """Mean number of detections above MiniGenEval's threshold: tells overfilled pictures, which pass `two_object`
    cheaply; 0 without pictures."""
    return sum(d.score > OPTIONS.threshold for items in found for d in items) / max(len(found), 1)
