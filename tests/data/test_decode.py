import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from pictures import BAD, cmyk_jpeg, gradient, grey16_png, jpeg, png, rgb16_png, save, turned_jpeg
from PIL import Image

from reca.data.decode import DecodeError, check, decode

HERE = Path(__file__).parent
ENV = {**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}"}


def distance(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b.astype(float)).max())


def test_png_is_exact_and_writable() -> None:
    rgb = decode(png())
    assert rgb.dtype == np.uint8
    assert distance(rgb, gradient()) == 0
    assert rgb.flags.writeable
    assert rgb.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turn(orientation: int) -> None:
    image = turned_jpeg(orientation)
    assert distance(decode(image), gradient()) < 12
    assert check(image) == (48, 32)


def test_exif_turn_of_other_formats() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = Image.fromarray(np.ascontiguousarray(np.rot90(gradient(), 1)))
    for kind in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        assert distance(decode(save(sideways, kind, exif=exif, **options)), gradient()) == 0, kind


def test_damaged_exif_neither_matters_nor_warns() -> None:
    code = (
        "from pictures import jpeg; from reca.data.decode import decode\n"
        "print(decode(jpeg(exif=b'Exif\\0\\0MM\\0*\\0\\0\\xff\\xff\\xff')).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE, capture_output=True, text=True, env=ENV)
    assert done.stdout.strip() == "(32, 48, 3)"
    assert done.stderr == ""


@pytest.mark.parametrize("image", [grey16_png(), rgb16_png()], ids=["grey", "colour"])
def test_16_bit_pictures_keep_their_range(image: bytes) -> None:
    rgb = decode(image)
    assert rgb.shape == (32, 48, 3)
    assert [int(rgb[0, x, c]) for x in (0, 20, 47) for c in range(3)] == [0] * 3 + [128] * 3 + [255] * 3


def test_cmyk() -> None:
    assert distance(decode(cmyk_jpeg()), gradient()) < 12


def test_grey_jpeg_and_bilevel() -> None:
    grey = Image.fromarray(gradient()).convert("L")
    rgb = decode(save(grey, "JPEG", quality=95))
    assert rgb.shape == (32, 48, 3)
    assert (rgb[..., 0] == rgb[..., 2]).all()
    assert set(np.unique(decode(save(grey.convert("1"), "PNG")))) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_is_white(mode: str) -> None:
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[8:24, 8:24] = (0, 0, 0, 255)
    image = Image.fromarray(rgba)
    if mode in ("P", "PA"):
        palette = Image.fromarray(np.where(rgba[..., 3] > 0, 1, 0).astype(np.uint8)).convert("P")
        palette.putpalette([9, 9, 9, 0, 0, 0])
        data = save(palette, "PNG", transparency=b"\x00\xff" if mode == "P" else 0)
    else:
        data = save(image.convert(mode), "PNG")
    rgb = decode(data)
    assert tuple(rgb[0, 0]) == (255, 255, 255)
    assert tuple(rgb[16, 16]) == (0, 0, 0)


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_give_a_reason_and_no_warning(name: str) -> None:
    data, reason = BAD[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DecodeError) as caught:
            check(data, min_side=16)
    assert caught.value.reason == reason
    assert caught.value.detail


def test_bomb_costs_no_memory() -> None:
    """The claimed 10.8 GB must never be asked for: the whole process stays below 300 MB.

    VmHWM starts anew with the program; ru_maxrss would still hold the peak of the process that started it.
    """
    code = (
        "import re; from pictures import bomb_png; from reca.data.decode import check, DecodeError\n"
        "try: check(bomb_png())\nexcept DecodeError as e: assert e.reason == 'too many pixels', e\n"
        "else: raise SystemExit('the bomb was let pass')\n"
        "assert int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) < 300_000"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE, env=ENV)


def test_limits_are_inclusive() -> None:
    assert check(jpeg(), max_pixels=48 * 32, min_side=32) == (48, 32)
    with pytest.raises(DecodeError, match="48 x 32"):
        check(jpeg(), max_pixels=48 * 32 - 1)
    with pytest.raises(DecodeError, match="below 33"):
        check(jpeg(), min_side=33)


def test_scaled_decode_keeps_twice_the_target() -> None:
    image = jpeg(gradient(512, 256))
    assert decode(image, target=32).shape == (64, 128, 3)
    assert decode(image, target=0).shape == (256, 512, 3)
    assert decode(image, target=200).shape == (256, 512, 3)
    small = np.asarray(Image.fromarray(gradient(512, 256)).resize((128, 64), Image.Resampling.BOX))
    assert distance(decode(image, target=32), small) < 16


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.95, 0.999])
def test_truncation_is_found_by_the_cheap_check(cut: float) -> None:
    image = jpeg(gradient(256, 256))
    with pytest.raises(DecodeError, match="truncated"):
        check(image[: int(len(image) * cut)])


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.95, 0.999])
def test_a_cut_png_is_whole_or_refused(cut: float) -> None:
    """Only the closing chunk (12 bytes) may be missing: then every pixel is there."""
    image = png(gradient(256, 256))
    try:
        rgb = decode(image[: int(len(image) * cut)])
    except DecodeError:
        assert cut < 0.98
    else:
        assert distance(rgb, gradient(256, 256)) == 0


def test_random_damage_never_escapes() -> None:
    """Flipped bytes give pixels or a DecodeError, nothing else."""
    rng = np.random.default_rng(0)
    for image in (jpeg(), png(), BAD["gif-animated"][0], cmyk_jpeg(), grey16_png()):
        for _ in range(40):
            broken = bytearray(image)
            for at in rng.integers(0, len(image), 4):
                broken[at] = int(rng.integers(0, 256))
            try:
                rgb = decode(bytes(broken), max_pixels=10_000_000)
            except DecodeError:
                continue
            assert rgb.ndim == 3
            assert rgb.shape[2] == 3
