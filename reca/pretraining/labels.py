"""Dense word labels of understanding patches: the tiny world's stand-in for a tower trained on 10^8 and more pairs.

A real UMM starts from CLIP or SigLIP, whose features already live near words. A tower that trains for minutes on two
cores does not get there from questions alone, so during *base* pre-training each 16 px patch is told the word it should
stand for: the colour in a sprite's upper left patch, the class in its upper right one, `and` elsewhere. Read in raster
order a picture then resembles a caption. RecA itself never sees these labels; every report says that the base was made
with them.
"""

import numpy as np
from numpy.typing import NDArray

from reca.data.scenes import CANVAS, CLASSES, COLORS, Scene

PATCH = 16
FILLER = "and"
WORDS: tuple[str, ...] = (FILLER, *COLORS, *CLASSES)


def patch_words(scene: Scene) -> NDArray[np.int64]:
    """Word of every understanding patch.

    Returns:
        int64 [16], raster order over the 4x4 grid of 16 px patches: index into `WORDS`.
    """
    side = CANVAS // PATCH
    grid = np.zeros((side, side), dtype=np.int64)
    for item in scene.objects:
        row, column = item.y // PATCH, item.x // PATCH
        grid[row, column] = WORDS.index(item.color)
        grid[row, column + 1] = WORDS.index(item.name)
    return grid.reshape(-1)
