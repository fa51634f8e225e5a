"""GenEval's object detector: Mask2Former (arXiv 2112.01527), with the scores, boxes and scales of mmdet's version.

The official scripts run mmdet's `mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco`. Here the network is transformers'; all
that comes after its raw logits follows mmdet (`maskformer_fusion_head.py`), because the library's own post-processing
gives no boxes, resizes masks to 384 x 384 and thresholds by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import Mask2FormerConfig, Mask2FormerModel
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPreTrainedModel

from reca.evaluation.deformable import GatheringAttention
from reca.evaluation.records import BenchmarkError

MOST = 100
"""Detections of a picture: the best pairs of query and class (mmdet's `max_per_image`)."""

SCALE = (1333, 800)
"""Longest and shortest side that a picture is resized to, whichever binds first (mmdet's test scale)."""

DIVISOR = 32
"""Sides are padded with zeros to multiples of this, right and below."""

MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)
"""ImageNet's statistics of RGB in 0 to 255."""

FLOOR = 0.1
"""Detections with a lower score are not reported; GenEval's thresholds are 0.3 and 0.9."""


def labels_of(config: Mask2FormerConfig) -> int:
    """Number of classes."""
    return int(cast("Any", config).num_labels)


class DetectorNetwork(Mask2FormerPreTrainedModel):
    """Mask2Former with its class head and without the training loss, whose constructor asks for scipy.

    Its parameters have the names of transformers' `Mask2FormerForUniversalSegmentation`. The pixel decoder's attention
    is our own: at published sizes the library's took two fifths of a CPU's time (docs/log.md).

    Args:
        config: sizes, and the number of classes.
    """

    _keys_to_ignore_on_load_unexpected = [r"^criterion\."]  # noqa: RUF012

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__(config)
        self.model = Mask2FormerModel(config)
        for layer in self.model.pixel_level_module.decoder.encoder.layers:
            old = cast("Any", layer).self_attn
            layer.self_attn = GatheringAttention(old.d_model, old.n_heads, old.n_levels, old.n_points)
        self.class_predictor = nn.Linear(config.hidden_dim, labels_of(config) + 1)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Raw logits of the last decoder layer.

        Args:
            pixel_values: float32 [B, 3, H, W], normalised, sides multiples of 32.

        Returns:
            Class logits [B, Q, C + 1] (the last one is "nothing") and mask logits [B, Q, H / 4, W / 4].
        """
        output = self.model(pixel_values, output_hidden_states=True)
        last = output.transformer_decoder_intermediate_states[-1].transpose(0, 1)
        return self.class_predictor(last), output.masks_queries_logits[-1]


@dataclass(frozen=True)
class Found:
    """What was detected in one picture, best first.

    Attributes:
        labels: int64 [K], class of each detection.
        scores: float32 [K], 0 to 1: class probability times the mean of the mask's probability inside the mask.
        boxes: float32 [K, 4]: x1, y1, x2, y2 in pixels of the picture, tight around the mask; x2 and y2 one past it.
        masks: bool [K, H, W] at the picture's size.
        finite: whether all logits were finite; if not, nothing else is given.
    """

    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor
    finite: bool = True


class Detector:
    """A detector network on a device.

    Args:
        network: in evaluation mode.
        scale: longest and shortest side in pixels that pictures are resized to.
    """

    def __init__(self, network: DetectorNetwork, scale: tuple[int, int] = SCALE) -> None:
        self.network = network.eval()
        self.scale = scale

    @classmethod
    def load(cls, place: str, device: str = "cpu", scale: tuple[int, int] = SCALE) -> Self:
        """Read a checkpoint of transformers' Mask2Former.

        Args:
            place: folder or hub id.
            device: `cpu` or `cuda`.
            scale: longest and shortest side in pixels that pictures are resized to.

        Raises:
            BenchmarkError: when it cannot be read or lacks weights.
        """
        try:
            network, about = cast("Any", DetectorNetwork).from_pretrained(
                place, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise BenchmarkError(
                f"{place}: no readable Mask2Former checkpoint: {error}; give a folder or a hub id"
            ) from error
        if lacking := sorted(about["missing_keys"]):
            raise BenchmarkError(
                f"{place}: {len(lacking)} weights of Mask2Former are missing, such as {lacking[0]}; give a checkpoint "
                "for instance segmentation"
            )
        return cls(network.to(device), scale)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return labels_of(self.network.config)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image]) -> list[Found]:
        """Detect objects. On a GPU, pictures that are resized alike go through the network together.

        On a CPU each goes by itself: two together took 9.1 s a picture where one took 8.3 s (Swin-S, one thread).

        Args:
            pictures: of any size and mode; they are read as RGB.

        Returns:
            What was detected in each, on the CPU; detections with a score of at most `FLOOR` are left out.
        """
        sized = [fitted(picture, self.scale) for picture in pictures]
        found: list[Found | None] = [None] * len(pictures)
        for shape in {tuple(pixels.shape) for pixels in sized}:
            alike = [row for row, pixels in enumerate(sized) if tuple(pixels.shape) == shape]
            together = 1 if self.network.device.type == "cpu" else len(alike)
            for start in range(0, len(alike), together):
                rows = alike[start : start + together]
                batch = padded(torch.stack([sized[row] for row in rows])).to(self.network.device)
                classes, masks = self.network(batch)
                for row, class_logits, mask_logits in zip(rows, classes.float(), masks.float(), strict=True):
                    width, height = pictures[row].size
                    sizes = (batch.shape[-2:], shape[-2:], (height, width))
                    found[row] = read_logits(class_logits, mask_logits, sizes, FLOOR)
        return cast("list[Found]", found)


def fitted(picture: Image.Image, scale: tuple[int, int] = SCALE) -> Tensor:
    """Resize (bilinear, without smoothing, as OpenCV does) and normalise a picture.

    Args:
        picture: of any size and mode; read as RGB.
        scale: longest and shortest side in pixels; the factor is the largest that keeps both.

    Returns:
        float32 [3, H, W]: RGB in 0 to 255 minus `MEAN`, divided by `DEVIATION`.
    """
    longest, shortest = max(scale), min(scale)
    width, height = picture.size
    factor = min(longest / max(width, height), shortest / min(width, height))
    size = (int(height * factor + 0.5), int(width * factor + 0.5))
    pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)[None].float()
    if size != (height, width):
        pixels = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False).round()
    return (pixels[0] - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]


def padded(pixels: Tensor) -> Tensor:
    """Fill pictures float32 [B, 3, H, W] up with zeros, right and below, to sides that are multiples of `DIVISOR`."""
    height, width = pixels.shape[-2:]
    return functional.pad(pixels, (0, -width % DIVISOR, 0, -height % DIVISOR))


def read_logits(
    class_logits: Tensor, mask_logits: Tensor, sizes: tuple[Sequence[int], Sequence[int], Sequence[int]], floor: float
) -> Found:
    """Detections from raw logits, as mmdet reads them.

    Args:
        class_logits: float32 [Q, C + 1].
        mask_logits: float32 [Q, h, w].
        sizes: height and width of the padded input, of the picture inside it, and of the picture before resizing.
        floor: least score, exclusive.
    """
    if not (torch.isfinite(class_logits).all() and torch.isfinite(mask_logits).all()):
        nothing = torch.zeros(0)
        return Found(nothing.long(), nothing, nothing.reshape(0, 4), nothing.bool().reshape(0, 0, 0), finite=False)
    probabilities = class_logits.softmax(dim=-1)[:, :-1]
    best, places = probabilities.flatten().topk(min(MOST, probabilities.numel()))
    # The mask's mean is at most 1, so a pair at or below the floor stays below it: its mask need not be made.
    best, places = best[best > floor], places[best > floor]
    labels = places % probabilities.shape[1]
    queries, inverse = (places // probabilities.shape[1]).unique(return_inverse=True)
    upsampled = at_original_size(mask_logits[queries], sizes)
    masks = upsampled > 0
    areas = masks.flatten(1).sum(dim=1)
    means = (upsampled.sigmoid() * masks).flatten(1).sum(dim=1) / (areas + 1e-6)
    scores = best * means[inverse]
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > floor]
    chosen = inverse[order]
    return Found(labels[order].cpu(), scores[order].cpu(), tight_boxes(masks)[chosen].cpu(), masks[chosen].cpu())


def at_original_size(logits: Tensor, sizes: tuple[Sequence[int], Sequence[int], Sequence[int]]) -> Tensor:
    """Bring mask logits up to the padded input, cut them to the picture in it, then bring them to its own size.

    Args:
        logits: float32 [Q, h, w].
        sizes: as in `read_logits`; the last is [H, W].

    Returns:
        float32 [Q, H, W].
    """
    whole, inside, original = (tuple(size) for size in sizes)
    if len(logits) == 0:
        return logits.new_zeros(0, *original)
    logits = functional.interpolate(logits[None], size=whole, mode="bilinear", align_corners=False)
    logits = logits[..., : inside[0], : inside[1]]
    return functional.interpolate(logits, size=original, mode="bilinear", align_corners=False)[0]


def tight_boxes(masks: Tensor) -> Tensor:
    """Boxes float32 [Q, 4] of bool masks [Q, H, W]: x1, y1 inclusive, x2, y2 exclusive; zeros where a mask is empty."""
    boxes = torch.zeros(len(masks), 4, device=masks.device)
    for row, mask in enumerate(masks):
        across, down = mask.any(dim=0).nonzero().flatten(), mask.any(dim=1).nonzero().flatten()
        if len(across):
            boxes[row] = torch.stack([across[0], down[0], across[-1] + 1, down[-1] + 1]).float()
    return boxes
