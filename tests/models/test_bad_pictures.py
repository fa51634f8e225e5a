"""Pictures and grids that do not fit a model are refused before anything runs."""

import json
import re
from pathlib import Path
from typing import Any

import bagel_tiny
import pytest
import torch
from tiny_models import BUILD

from reca.config import SamplingConfig
from reca.models import FAMILIES, family_class
from reca.models.errors import CheckpointError


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_another_size_are_refused(family: str) -> None:
    model = BUILD[family]()
    right = model.geometry.size
    for side in (1, right // 2, right * 2):
        with pytest.raises(ValueError, match=rf"{side}, {side}\].*\b{right}, {right}\]|\b{right}, {right}\].*{side}\]"):
            model.encode(torch.zeros(1, 3, side, side, dtype=torch.uint8))


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 4, 32, 32), (3, 32, 32), (1, 3, 0, 32), (0, 3, 32, 32)])
def test_pictures_of_another_form_are_not_edited(shape: tuple[int, ...]) -> None:
    pixels = torch.zeros(shape, dtype=torch.uint8)
    with pytest.raises(ValueError, match=rf"uint8 {re.escape(str(list(shape)))}, expected uint8 \[B, 3, H, W\]"):
        bagel_tiny.tiny_model().edit(pixels, ["make it blue"], [1], SamplingConfig(steps=1))


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("showo", {"image_size": 2}, "image_size=2 is no multiple of the tokenizer factor 4"),
        ("showo", {"image_size": 32}, "image_size=32 takes 86 positions .*phi.max_positions=64"),
        ("harmon", {"reca": {"image_size": 2}}, "image_size is 2 pixels; it must be a multiple of 4"),
        ("harmon", {"reca": {"image_size": 64}}, "image_size=64 takes 259 positions .*max_position_embeddings=96"),
        ("janus", {"vision_config": {"image_size": 2}}, "image_size is 2, the other sizes need 4"),
        ("janus", {"vision_config": {"image_size": 64}}, "num_image_tokens is 16, the other sizes need 256"),
        (
            "janus",
            {"text_config": {"max_position_embeddings": 32}},
            "max_position_embeddings is 32, .* take 32",
        ),
        ("openuni", {"image_size": 2}, "image_size=2 is no multiple of 4"),
        ("bagel", {"image_size": 8}, "image_size=8 is no multiple of the 16 pixels of one token"),
        ("bagel", {"image_size": 64}, "image_size=64 is beyond the position table of 3 x 3 tokens"),
    ],
)
def test_sizes_below_a_patch_and_beyond_the_positions_are_named(
    family: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    BUILD[family]().save(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    for name, value in change.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"config\.json.*{message}"):
        family_class(family).load(tmp_path)
