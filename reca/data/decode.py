"""Image bytes to upright uint8 RGB, or a reason why not.

JPEG goes through libjpeg-turbo (simplejpeg), all else through Pillow. Sizes are read from the header and checked
before any pixel is decoded. Transparent pictures are composited on white. Pictures with several frames are refused:
RecA wants stills.
"""

import io
import warnings
from collections.abc import Callable

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

MAX_PIXELS = 64_000_000

# `max_pixels` below is the one limit on size. Pillow's own would warn first and raise only at twice the pixels.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of oddities in metadata (damaged EXIF, TIFF tags) that do not touch the pixels.
warnings.filterwarnings("ignore", module=r"PIL\.")

_ORIENTATION_TAG = 0x0112
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {  # EXIF 2.32, table 6 (Orientation)
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
_JPEG_COLORS = frozenset({"RGB", "YCbCr", "Gray"})
_GREY_16 = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})


class DecodeError(ValueError):
    """Bytes that are not a usable still picture.

    Attributes:
        reason: one of `not an image`, `truncated`, `damaged`, `animated`, `too many pixels`, `too small`,
            `unsupported`: what the quarantine counts by.
        detail: the particulars of this picture.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def decode(image: bytes, max_pixels: int = MAX_PIXELS, target: int = 0) -> Pixels:
    """Decode a picture.

    Args:
        image: encoded picture.
        max_pixels: largest width x height, read from the header.
        target: side in pixels the picture is to be fitted to next; 0 when unknown. A JPEG whose sides are above twice
            the target is decoded at a smaller scale (by eighths, in the DCT domain), never below twice the target:
            fitted results then differ by about 1 grey level in the mean, and a 512 px picture for 64 px decodes 1.5
            times as fast.

    Returns:
        uint8 [H, W, 3], RGB, after the EXIF turn, C-contiguous.

    Raises:
        DecodeError: with the reason.
    """
    return _decode(image, max_pixels, 1, target)[0]


def check(image: bytes, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> tuple[int, int]:
    """Decode a picture as cheaply as finds every fault, and throw the pixels away.

    Args:
        image: encoded picture.
        max_pixels: largest width x height, read from the header.
        min_side: least width and height in pixels.

    Returns:
        Width and height in pixels, after the EXIF turn.

    Raises:
        DecodeError: with the reason.
    """
    return _decode(image, max_pixels, min_side, target=1)[1]


def _decode(image: bytes, max_pixels: int, min_side: int, target: int) -> tuple[Pixels, tuple[int, int]]:
    if len(image) == 0:
        raise DecodeError("not an image", "0 bytes")
    if image[:3] == b"\xff\xd8\xff":
        try:
            height, width, color, _ = simplejpeg.decode_jpeg_header(image)
            height, width = int(height), int(width)
        except ValueError as error:
            raise DecodeError("damaged", f"JPEG header: {error}") from error
        if color in _JPEG_COLORS:
            _check_size(width, height, max_pixels, min_side)
            turn = _jpeg_orientation(image)
            return _turned(_decode_jpeg(image, 2 * target), turn), _turned_size(width, height, turn)
    return _decode_pillow(image, max_pixels, min_side)


def _decode_jpeg(image: bytes, smallest: int) -> Pixels:
    def attempt(strict: bool) -> Pixels:
        if smallest == 0:
            return simplejpeg.decode_jpeg(image, strict=strict)
        return simplejpeg.decode_jpeg(image, min_height=smallest, min_width=smallest, strict=strict)

    try:
        return attempt(strict=True)
    except ValueError as error:
        text = str(error)
    if "extraneous" in text.lower():  # bytes between markers that some cameras write; the pixels are whole
        try:
            return attempt(strict=False)
        except ValueError as error:
            text = str(error)
    raise DecodeError("truncated" if "premature end" in text.lower() else "damaged", text)


def _decode_pillow(image: bytes, max_pixels: int, min_side: int) -> tuple[Pixels, tuple[int, int]]:
    try:
        opened = Image.open(io.BytesIO(image))
    except Exception as error:
        raise DecodeError("not an image", f"{len(image)} bytes starting with {image[:12]!r}") from error
    with opened:
        _check_size(opened.width, opened.height, max_pixels, min_side)
        try:
            if getattr(opened, "is_animated", False):
                raise DecodeError("animated", f"{opened.format} of several frames")
            opened.load()
            turn = _valid_turn(opened.getexif().get(_ORIENTATION_TAG))
            rgb = _to_rgb(opened)
        except DecodeError:
            raise
        except Exception as error:
            reason = "truncated" if "truncated" in str(error).lower() else "damaged"
            raise DecodeError(reason, f"{opened.format}: {type(error).__name__}: {error}") from error
    upright = _turned(rgb, turn)
    return upright, (upright.shape[1], upright.shape[0])


def _to_rgb(opened: Image.Image) -> Pixels:
    mode = opened.mode
    if mode in _GREY_16:
        values = np.asarray(opened).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DecodeError("unsupported", f"{opened.format} with 32-bit integer pixels")
        grey = ((values * 255 + 32767) // 65535).astype(np.uint8)  # 65535 is white: a plain convert("RGB") would clip
        return np.repeat(grey[:, :, None], 3, axis=2)
    if mode == "F":
        raise DecodeError("unsupported", f"{opened.format} with floating-point pixels")
    if mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or "transparency" in opened.info:
        picture = opened.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    return np.asarray(opened.convert("RGB"))


def _check_size(width: int, height: int, max_pixels: int, min_side: int) -> None:
    if width * height > max_pixels:
        raise DecodeError("too many pixels", f"{width} x {height} is above the limit of {max_pixels} pixels")
    if min(width, height) < min_side:
        raise DecodeError("too small", f"{width} x {height} has a side below {min_side} pixels")


def _jpeg_orientation(image: bytes) -> int:
    """Read the EXIF orientation, walking the segments before the scan (ITU T.81, annex B)."""
    at = 2
    while at + 4 <= len(image) and image[at] == 0xFF and image[at + 1] != 0xDA:
        size = int.from_bytes(image[at + 2 : at + 4], "big")
        if image[at + 1] == 0xE1 and image[at + 4 : at + 10] == b"Exif\0\0":
            exif = Image.Exif()
            try:
                exif.load(image[at + 4 : at + 2 + size])
                return _valid_turn(exif.get(_ORIENTATION_TAG))
            except Exception:  # noqa: BLE001 - damaged metadata says nothing about the pixels
                return 1
        at += 2 + size
    return 1


def _valid_turn(value: object) -> int:
    return value if isinstance(value, int) and value in _TURNS else 1


def _turned(rgb: Pixels, turn: int) -> Pixels:
    rgb = _TURNS[turn](rgb) if turn != 1 else rgb
    return np.require(rgb, requirements=["C", "W"])  # torch wants writable memory; Pillow's is not


def _turned_size(width: int, height: int, turn: int) -> tuple[int, int]:
    return (height, width) if turn >= 5 else (width, height)
