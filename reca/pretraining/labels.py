"""Dense word labels of understanding tokens: the tiny world's stand-in for a tower trained on 10^8 and more pairs.

A real UMM starts from CLIP or SigLIP, whose features already live near words. A tower that trains for minutes on two
cores does not get there from questions alone, so during *base* pre-training each understanding token is told the word
it should stand for. The 16 tokens of a picture spell its objects one after the other: colour, class, row, column.

A token's number therefore says which object it tells of, and its word says where that object is. With words at the
patches they describe (the base of 2026-11-22), RecA taught drawing to read the place of a word in the sequence as a
place in the picture, and then misread prompts (docs/log.md).

RecA itself never sees these labels. But after them a picture's tokens are close to a dense caption that the tower
writes, and every report says that the base was made with them.
"""

import numpy as np
from numpy.typing import NDArray

from reca.data.scenes import CLASSES, COLORS, COLUMNS, MAX_OBJECTS, ROWS, Scene

FILLER = "."
"""The word of unused tokens. No caption or prompt has it, so RecA cannot change what one of their words means."""

WORDS: tuple[str, ...] = (FILLER, *COLORS, *CLASSES, *ROWS, *COLUMNS)
TOKENS = 4 * MAX_OBJECTS
"""Understanding tokens of a picture: colour, class, row and column of up to four objects."""


def description(scene: Scene) -> NDArray[np.int64]:
    """Word of every understanding token: the objects in raster order, then fillers.

    Returns:
        int64 [16]: index into `WORDS`.
    """
    words = [word for item in scene.objects for word in (item.color, item.name, *item.place.split())]
    return np.array([WORDS.index(word) for word in words + [FILLER] * (TOKENS - len(words))], dtype=np.int64)
