"""The MiniGenEval detector: a centre-point network in the manner of CenterNet (arXiv 1904.07850), 0.28 M parameters."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

STRIDE = 4
"""Pixels between neighbouring grid points."""


WIDTH = 48
"""Channels at stride 4; twice as many at stride 8."""


class Maps(NamedTuple):
    """Outputs on the grid; grid point (i, j) stands at pixel (4 j, 4 i).

    Attributes:
        heat: [B, classes, G, G] logits of "an object of this class has its centre nearest to this point".
        color: [B, colors, G, G] logits of the colour of the object centred here.
        offset: [B, 2, G, G] centre minus grid point, x and y, in units of the stride.
        size: [B, 2, G, G] width and height of the object, in units of 16 px.
    """

    heat: Tensor
    color: Tensor
    offset: Tensor
    size: Tensor


class ScorerNetwork(nn.Module):
    """64 x 64 picture to maps on a 16 x 16 grid.

    The context that tells a whole sprite from a fragment is gathered at stride 8 (receptive field above 60 px, sprites
    are 28 px) and joined with the stride 4 features that place the centre.

    Args:
        classes: number of classes.
        colors: number of colours.
    """

    def __init__(self, classes: int, colors: int) -> None:
        super().__init__()
        self.splits = [classes, colors, 2, 2]
        self.stem = nn.Sequential(_conv(3, WIDTH // 2, 5, 2), _conv(WIDTH // 2, WIDTH, 3, 2))
        self.down = _conv(WIDTH, 2 * WIDTH, 3, 2)
        self.context = nn.Sequential(_conv(2 * WIDTH, 2 * WIDTH, 3), _conv(2 * WIDTH, 2 * WIDTH, 3))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.join = _conv(3 * WIDTH, WIDTH, 3)
        self.head = nn.Conv2d(WIDTH, sum(self.splits), 1)
        # Sigmoid about 0.02: the heat maps start near their mean, so the focal loss does not explode on the background.
        nn.init.constant_(cast("Tensor", self.head.bias)[:classes], -4.0)

    def forward(self, pixels: Tensor) -> Maps:
        """Maps of pictures.

        Args:
            pixels: float [B, 3, 64, 64] in -1 to 1.

        Returns:
            float32 on a grid of G = 16 points a side.
        """
        near = self.stem(pixels)
        far = self.down(near)
        far = far + self.context(far)
        joined = self.join(torch.cat([near, self.up(far)], dim=1))
        return Maps(*self.head(joined).float().split(self.splits, dim=1))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
