import numpy as np
import pytest
from pictures import gradient
from PIL import Image

from reca.data.fit import fit


def noisy(width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (
        (gradient(width, height).astype(int) + rng.integers(-20, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)
    )


@pytest.mark.parametrize(("width", "height", "size"), [(256, 256, 224), (512, 300, 64), (40, 90, 64), (64, 64, 64)])
def test_squash_equals_pillow_bicubic(width: int, height: int, size: int) -> None:
    rgb = noisy(width, height)
    ours = fit(rgb, size, "squash")
    pillow = np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert ours.shape == (3, size, size)
    assert ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - pillow).max() <= (1 if size < min(width, height) else 2)
    assert np.abs(ours.astype(int) - pillow).mean() < 0.3


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 301), (65, 64)])
def test_crop_scales_the_short_side_and_cuts_the_centre(width: int, height: int) -> None:
    rgb, size = noisy(width, height), 64
    short = min(width, height)
    wide, tall = int(size * width / short), int(size * height / short)
    scaled = np.asarray(Image.fromarray(rgb).resize((wide, tall), Image.Resampling.BICUBIC))
    top, left = round((tall - size) / 2), round((wide - size) / 2)
    expected = scaled[top : top + size, left : left + size].transpose(2, 0, 1)
    assert np.abs(fit(rgb, size, "crop").astype(int) - expected).max() <= 1
