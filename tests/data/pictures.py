"""Pictures of every kind, good and bad, as bytes."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def gradient(width: int = 48, height: int = 32) -> np.ndarray:
    """uint8 [height, width, 3]: red grows to the right, green downwards, blue is 64."""
    rgb = np.full((height, width, 3), 64, np.uint8)
    rgb[:, :, 0] = np.linspace(0, 255, width).astype(np.uint8)[None]
    rgb[:, :, 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return rgb


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png(rgb: np.ndarray | None = None) -> bytes:
    return save(Image.fromarray(gradient() if rgb is None else rgb), "PNG")


def jpeg(rgb: np.ndarray | None = None, **options: Any) -> bytes:
    return save(Image.fromarray(gradient() if rgb is None else rgb), "JPEG", quality=95, subsampling=0, **options)


def turned_jpeg(orientation: int) -> bytes:
    """A JPEG that shows `gradient()` once its EXIF orientation is followed."""
    back = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: np.rot90(a, 2),
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(np.ascontiguousarray(back[orientation](gradient())), exif=exif)


def grey16_png() -> bytes:
    """16-bit greyscale: 0, 257 x 128 and 65535 in thirds (0, 128 and 255 in 8 bits)."""
    values = np.repeat(np.array([0, 128 * 257, 65535], np.uint16), 16)[None].repeat(32, 0)
    return save(Image.fromarray(values), "PNG")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def rgb16_png() -> bytes:
    """16-bit colour, which Pillow reads but cannot write: 0, 257 x 128 and 65535 in thirds, in all three channels."""
    row = np.repeat(np.array([0, 128 * 257, 65535], ">u2"), 16)[:, None].repeat(3, 1).tobytes()
    header = struct.pack(">IIBBBBB", 48, 32, 16, 2, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress((b"\0" + row) * 32)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def cmyk_jpeg() -> bytes:
    return save(Image.fromarray(gradient()).convert("CMYK"), "JPEG", quality=95, subsampling=0)


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(np.full((32, 32, 3), value, np.uint8)) for value in (0, 120, 250)]
    return save(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def bomb_png(width: int = 60_000, height: int = 60_000) -> bytes:
    """A few dozen bytes that claim 3.6 billion pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not an image"),
    "text": (b"this is not a picture at all, though its name may say so\n" * 20, "not an image"),
    "html": (b"<!doctype html><html><body>404 Not Found</body></html>", "not an image"),
    "jpeg-truncated": (jpeg()[: len(jpeg()) * 2 // 3], "truncated"),
    "jpeg-header-only": (jpeg()[:24], "damaged"),
    "png-truncated": (png()[: len(png()) * 2 // 3], "truncated"),
    "gif-animated": (animated("GIF"), "animated"),
    "webp-animated": (animated("WEBP"), "animated"),
    "png-animated": (animated("PNG"), "animated"),
    "bomb": (bomb_png(), "too many pixels"),
    "tiny": (png(gradient(8, 8)), "too small"),
    "float-tiff": (save(Image.fromarray(np.ones((32, 32), np.float32)), "TIFF"), "unsupported"),
}
"""Name -> (bytes, reason). `tiny` is bad only where sides below 16 px are refused."""
