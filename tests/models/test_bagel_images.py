import numpy as np
import pytest
import torch
from PIL import Image

from reca.models.bagel.config import BAGEL_7B, ImageRule
from reca.models.bagel.flow import time_grid
from reca.models.bagel.images import fitted_size, normalised, resize, resized, to_bytes
from reca.models.bagel.vision import from_patches, sincos_table, to_patches


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1024, 1024), (1024, 1024)), ((300, 200), (768, 512)), ((1920, 1080), (1024, 576)), ((40, 4000), (16, 1024))],
)
def test_drawn_pictures_keep_their_ratio_within_the_limits(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted_size(*size, BAGEL_7B.drawn) == expected


def test_the_condition_of_reca_has_224_pixels() -> None:
    assert fitted_size(1024, 1024, BAGEL_7B.condition) == (224, 224)
    assert fitted_size(1024, 512, BAGEL_7B.condition) == (224, 112)


def test_an_area_shared_by_pictures_is_divided() -> None:
    assert fitted_size(1024, 1024, BAGEL_7B.drawn, 2) == (880, 880)


def test_resizing_is_pillows_bicubic() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, 37, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize((24, 32), Image.Resampling.BICUBIC))
    rule = ImageRule(32, 8, 8)
    assert np.array_equal(resize(picture, rule), expected)
    batch = resized(torch.from_numpy(picture).permute(2, 0, 1)[None], rule)
    assert np.array_equal(batch[0].permute(1, 2, 0).numpy(), expected)


def test_bytes_survive_the_round_trip_but_for_cutting_off() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    images = normalised(pixels)
    assert (float(images.min()), float(images.max())) == (-1.0, 1.0)
    assert int((to_bytes(images).int() - pixels.int()).abs().max()) <= 1
    assert to_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_patches_are_row_column_channel_and_invertible() -> None:
    images = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    patches = to_patches(images, 2)
    assert patches.shape == (2, 6, 12)
    assert patches[0, 1].tolist() == [int(images[0, c, y, x]) for y in (0, 1) for x in (2, 3) for c in range(3)]
    assert torch.equal(from_patches(patches, 2, 3, 2), images)


def test_images_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(ValueError, match="image of 16 x 7 cannot be cut into patches of 14 x 14"):
        to_patches(torch.zeros(1, 3, 7, 16), 14)
    with pytest.raises(ValueError, match="cannot be cut"):
        to_patches(torch.zeros(1, 3, 14, 15), 14)


def test_position_tables_hold_the_column_first_and_sines_first() -> None:
    table = sincos_table(4, 8)
    expected = [np.sin(3.0), np.sin(0.03), np.cos(3.0), np.cos(0.03), np.sin(1.0), np.sin(0.01)]
    np.testing.assert_allclose(table[1 * 4 + 3, :6].numpy(), expected, atol=1e-6)


def test_times_run_from_noise_to_data_and_a_shift_keeps_them_near_noise() -> None:
    assert time_grid(2, 1.0).tolist() == [1.0, 0.5, 0.0]
    assert time_grid(2, 3.0).tolist() == [1.0, 0.75, 0.0]
    with pytest.raises(ValueError, match="steps=0"):
        time_grid(0, 1.0)
