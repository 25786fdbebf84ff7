"""Decoding many small PNGs of one size at once."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

_MODES = {1: ("L", 0), 3: ("RGB", 2)}  # by channels: Pillow's name, and the number in a PNG


def decode_pngs(pngs: Sequence[bytes], shape: tuple[int, int, int]) -> np.ndarray:
    """Decode images `[height, width, channels]` as one tall one, five times as fast as one by one.

    PNG predicts a row of pixels from the row above, which is blank for the first one. So a blank
    row is put above every image, and taken away at the end.
    """
    height, width, channels = shape
    blank = bytes(1 + width * channels)  # the first byte of each row tells how it is predicted
    rows = zlib.compress(b"".join(blank + _rows(png, shape) for png in pngs), level=0)
    mode, _ = _MODES[channels]
    tall = Image.frombytes(mode, (width, len(pngs) * (1 + height)), rows, "zip", mode)
    return np.asarray(tall).reshape(len(pngs), 1 + height, width, channels)[:, 1:]


def _rows(png: bytes, shape: tuple[int, int, int]) -> bytes:
    """The predicted rows of a PNG, whose layout is: header, one chunk of rows, end."""
    height, width, channels = shape
    start, end = 41, -16
    if (
        png[:33] != _header(shape)
        or png[37:41] != b"IDAT"
        or int.from_bytes(png[33:37]) != len(png[start:end])
    ):
        return _unpredicted(png, shape)
    size = height * (1 + width * channels)
    rows = zlib.decompressobj().decompress(png[start:end], size + 1)
    if len(rows) != size:
        raise ValueError(f"the rows of an image do not have {size} bytes")
    return rows


def _header(shape: tuple[int, int, int]) -> bytes:
    """The first bytes of a PNG of 8 bits, without interlacing."""
    height, width, channels = shape
    _, kind = _MODES[channels]
    chunk = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + bytes([8, kind, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)


def _unpredicted(png: bytes, shape: tuple[int, int, int]) -> bytes:
    """The rows of any PNG, each said to be predicted by nothing."""
    height, width, channels = shape
    image = Image.open(io.BytesIO(png))
    mode, _ = _MODES[channels]
    if image.size != (width, height) or image.mode != mode:  # before the pixels are inflated
        raise ValueError(f"an image has {image.width} x {image.height} pixels of {image.mode}")
    return np.pad(np.asarray(image).reshape(height, -1), ((0, 0), (1, 0))).tobytes()
