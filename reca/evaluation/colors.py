"""GenEval's colour classifier: zero-shot CLIP (ViT-L/14 of OpenAI) on objects cut out along their masks.

Follows `evaluation/evaluate_images.py`: everything outside the mask is painted grey, the picture is cut to the box,
each colour's classifier is the mean of three captions' embeddings, and logits are 100 times the cosine.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Self, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, CLIPModel

from reca.evaluation.geneval import COLORS
from reca.evaluation.records import BenchmarkError

CAPTIONS = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")

GROUND = (0x99, 0x99, 0x99)
"""Grey of everything outside the mask."""

LOGIT_SCALE = 100.0
"""The official classifier's factor on the cosine."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI CLIP's statistics of RGB in 0 to 1."""


class ColorReader:
    """CLIP with its tokenizer on a device.

    Args:
        clip: in evaluation mode.
        tokenizer: of transformers, matching `clip`.
    """

    def __init__(self, clip: CLIPModel, tokenizer: Any) -> None:
        self.clip = cast("Any", clip.eval())
        self.tokenizer = tokenizer
        self.classifier = lru_cache(maxsize=None)(self._classifier)

    @classmethod
    def load(cls, place: str, device: str = "cpu") -> Self:
        """Read a CLIP checkpoint of transformers: a folder or a hub id.

        Raises:
            BenchmarkError: when it cannot be read or lacks weights.
        """
        try:
            clip, about = cast("Any", CLIPModel).from_pretrained(place, dtype=torch.float32, output_loading_info=True)
            tokenizer = AutoTokenizer.from_pretrained(place)
        except (OSError, ValueError) as error:
            raise BenchmarkError(f"{place}: no readable CLIP checkpoint: {error}; give a folder or a hub id") from error
        if lacking := sorted(about["missing_keys"]):
            raise BenchmarkError(f"{place}: {len(lacking)} weights of CLIP are missing, such as {lacking[0]}")
        return cls(clip.to(device), tokenizer)

    @torch.inference_mode()
    def __call__(self, cutouts: Sequence[Image.Image], names: Sequence[str]) -> Tensor:
        """Logits of the ten colours.

        Args:
            cutouts: objects as `cutout` makes them.
            names: class word of each.

        Returns:
            float32 [N, 10] in the order of `geneval.COLORS`.
        """
        if not cutouts:
            return torch.zeros(0, len(COLORS))
        side = int(self.clip.config.vision_config.image_size)
        pixels = torch.stack([clip_pixels(picture, side) for picture in cutouts]).to(self.clip.device)
        features = functional.normalize(self.clip.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        classifiers = torch.stack([self.classifier(name) for name in names])
        return (LOGIT_SCALE * torch.einsum("nd,ncd->nc", features, classifiers)).float().cpu()

    def _classifier(self, name: str) -> Tensor:
        """Classifier of a class word, float [10, D]: captions embedded, normalised, averaged, normalised again."""
        texts = [caption.format(color=color, name=name) for color in COLORS for caption in CAPTIONS]
        limit = int(self.clip.config.text_config.max_position_embeddings)
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        on_device = {key: tokens[key].to(self.clip.device) for key in ("input_ids", "attention_mask")}
        embedded = functional.normalize(self.clip.get_text_features(**on_device).pooler_output, dim=-1)
        return functional.normalize(embedded.unflatten(0, (len(COLORS), len(CAPTIONS))).mean(dim=1), dim=-1)


def cutout(picture: Image.Image, box: Sequence[float], mask: Tensor) -> Image.Image:
    """Cut an object out.

    Args:
        picture: RGB.
        box: x1, y1, x2, y2 in pixels.
        mask: bool [H, W] at the picture's size; what lies outside becomes grey.

    Returns:
        The picture inside the box, whose edges are rounded to whole pixels.
    """
    stencil = Image.fromarray((mask.numpy() * 255).astype(np.uint8))
    ground = Image.new("RGB", picture.size, GROUND)
    return Image.composite(picture, ground, stencil).crop(cast("Any", tuple(round(edge) for edge in box)))


def clip_pixels(picture: Image.Image, side: int) -> Tensor:
    """CLIP's input: shorter side resized (bicubic), centre cut, normalised.

    Args:
        picture: of any size and mode.
        side: that CLIP takes, in pixels.

    Returns:
        float32 [3, side, side], RGB in 0 to 1 minus `MEAN`, divided by `DEVIATION`.
    """
    width, height = picture.size
    short = min(width, height)
    sized = picture.resize((int(side * width / short), int(side * height / short)), Image.Resampling.BICUBIC)
    left, top = (round((edge - side) / 2) for edge in sized.size)
    pixels = np.asarray(sized.crop((left, top, left + side, top + side)).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy((pixels - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)).permute(2, 0, 1)
