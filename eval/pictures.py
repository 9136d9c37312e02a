"""Pictures as data URIs, without files: PNG, animated PNG and strips of frames.

Axes: T frames, H W pixels; pixels uint8 RGB, or float in 0..1 where said.
"""

import base64
import struct
import zlib

import numpy as np
from jaxtyping import Float, UInt8

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _header(height: int, width: int) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))  # 8 bits, RGB


def _deflate(frame: UInt8[np.ndarray, "H W 3"]) -> bytes:
    # Each line begins with its filter; 1 = difference to the pixel on the left.
    difference = np.diff(frame.astype(np.int16), axis=1, prepend=0).astype(np.uint8).reshape(len(frame), -1)
    return zlib.compress(np.concatenate([np.ones((len(frame), 1), np.uint8), difference], 1).tobytes(), 9)


def png(frame: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """One image as a PNG file."""
    parts = _header(*frame.shape[:2]), _chunk(b"IDAT", _deflate(frame)), _chunk(b"IEND", b"")
    return SIGNATURE + b"".join(parts)


def animated_png(video: UInt8[np.ndarray, "T H W 3"], fps: float) -> bytes:
    """An endlessly repeated animation (APNG: a PNG of which all browsers play the further frames)."""
    count, height, width, _ = video.shape
    out = [SIGNATURE, _header(height, width), _chunk(b"acTL", struct.pack(">II", count, 0))]
    number = 0
    for index, frame in enumerate(video):
        delay = round(1000 / fps)
        control = struct.pack(">IIIIIHHBB", number, width, height, 0, 0, delay, 1000, 0, 0)
        out.append(_chunk(b"fcTL", control))
        number += 1
        data = _deflate(frame)
        if index == 0:
            out.append(_chunk(b"IDAT", data))
        else:
            out.append(_chunk(b"fdAT", struct.pack(">I", number) + data))
            number += 1
    return b"".join([*out, _chunk(b"IEND", b"")])


def data_uri(image: bytes) -> str:
    """What an <img src> takes instead of an address."""
    return "data:image/png;base64," + base64.b64encode(image).decode()


def to_bytes(video: Float[np.ndarray, "*B"]) -> UInt8[np.ndarray, "*B"]:
    """0..1 to 0..255."""
    return (np.clip(np.asarray(video, np.float32), 0, 1) * 255 + 0.5).astype(np.uint8)


def shrink(video: UInt8[np.ndarray, "T H W 3"], side: int) -> UInt8[np.ndarray, "T h w 3"]:
    """Means of whole pixel blocks, so that the longer side is at most about `side`."""
    f = -(-max(video.shape[1:3]) // side)
    if f <= 1:
        return video
    t, h, w = video.shape[0], video.shape[1] // f, video.shape[2] // f
    blocks = video[:, : h * f, : w * f].reshape(t, h, f, w, f, 3)
    return (blocks.mean((2, 4)) + 0.5).astype(np.uint8)


def strip(
    rows: list[UInt8[np.ndarray, "T H W 3"]], frames: int = 8, gap: int = 1
) -> UInt8[np.ndarray, "h w 3"]:
    """Rows of evenly spaced frames, one row a video, with lines of mid grey between."""
    times = np.linspace(0, len(rows[0]) - 1, min(frames, len(rows[0]))).round().astype(int)
    lines = []
    for video in rows:
        cells = [np.pad(video[t], ((0, gap), (0, gap), (0, 0)), constant_values=128) for t in times]
        lines.append(np.concatenate(cells, axis=1))
    return np.concatenate(lines)[:-gap, :-gap]
