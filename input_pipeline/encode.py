"""Writing H.264 mp4 files with PyAV.

T frames, H height, W width, C = 3 channels (red, green, blue).
"""

import contextlib
import os
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8


def write_mp4(
    path: str | os.PathLike,
    frames: UInt8[np.ndarray, "T H W 3"],
    fps: float = 25,
    crf: int = 18,
    *,
    keyframe_interval: int = 0,
    preset: str = "veryfast",
) -> None:
    """Writes a clip as an H.264 mp4 file; the same frames give the same bytes.

    Even sizes are stored as yuv420p, which everything plays; odd sizes, which that layout has no room for, as yuv444p.
    The file appears under its name only when it is complete.

    Args:
      path: the file to write; its folder must exist.
      frames: pixels, at least one frame.
      fps: frames a second.
      crf: x264's constant rate factor: 0 lossless (up to the colour conversion) ... 51 worst.
      keyframe_interval: most frames between two key frames; 0 leaves it to x264 (250).
      preset: x264's preset.

    Raises:
      ValueError: `frames` is not a uint8 array of shape [T >= 1, H, W, 3].
    """
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(
            f"write_mp4({os.fspath(path)!r}): frames have dtype {frames.dtype} and shape {frames.shape}; "
            "expected uint8 [T >= 1, H, W, 3]; convert them first"
        )
    _, height, width, _ = frames.shape
    even = height % 2 == 0 and width % 2 == 0
    # One thread and no frame look-ahead across threads: the bitstream depends on nothing but its input.
    options = {"crf": str(crf), "preset": preset, "threads": "1"}
    if keyframe_interval:
        options["g"] = str(keyframe_interval)
    partial = f"{os.fspath(path)}.{os.getpid()}.partial"
    try:
        with av.open(partial, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream(
                "libx264", rate=Fraction(fps).limit_denominator(100_000), options=options
            )
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuv420p" if even else "yuv444p"
            stream.codec_context.thread_count = 1
            for pixels in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
