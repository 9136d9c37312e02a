"""The sound of a video: a piece of its first audio track as a waveform.

S samples (of each channel).
"""

import math

import av
import numpy as np
from av.audio.frame import AudioFrame
from jaxtyping import Float32

from input_pipeline.container import FAILURES, Container, DecodingFailed, words
from input_pipeline.errors import BadVideo

MAX_BYTES = 2**29  # of one waveform
PREROLL = 0.5  # seconds decoded before the start: codecs need what came before
_TOLERANCE = 0.02  # seconds that a frame's time may be off before it counts as a gap: containers round times
_BLOCK = 2**14  # samples given to the resampler at once


def read(
    container: Container, path: str, origin: float, start: float, end: float | None, rate: int | None
) -> tuple[Float32[np.ndarray, "S channels"], int]:
    """The waveform from `start` to `end`, and its rate.

    Args:
      container: the open file; what it reads next has to seek first.
      path: what messages call it.
      origin: the file's time that `start` and `end` count from, in seconds.
      start, end: seconds; None = the end of the track. Where nothing was recorded there is silence.
      rate: samples a second; None = as stored.

    Returns:
      round((end - start) * rate) samples between -1 and 1 (louder where the codec says so), and the rate.

    Raises:
      BadVideo: there is no audio track, it does not decode, or that much does not fit into memory.
    """
    stream = container.audio
    if stream is None:
        raise BadVideo(path, "has no audio track")
    pieces, stored, channels, position = [], None, 0, 0
    container.seek(_ticks(stream, origin + start - PREROLL), stream)
    try:
        for frame in container.sounds():
            if stored is None:
                stored, channels = frame.sample_rate, len(frame.layout.channels)
                layout = frame.layout.name
            elif (frame.sample_rate, len(frame.layout.channels)) != (stored, channels):
                raise BadVideo(path, "its audio changes its rate or channels on the way")
            place = None if frame.time is None else round((frame.time - origin - start) * stored)
            if place is None or (pieces and abs(place - position) <= _TOLERANCE * stored):
                place = position
            if end is not None and place >= (end - start + PREROLL) * stored:
                break
            position = place + frame.samples
            if position > -PREROLL * stored:
                pieces.append((place, _waveform(frame)))
            if (max(position, 0) * channels) * 4 > MAX_BYTES:
                raise BadVideo(path, f"more than {MAX_BYTES >> 20} MiB of audio at once; read a shorter part")
    except (DecodingFailed, *FAILURES) as error:
        if isinstance(error, BadVideo):
            raise
        if not pieces:
            raise BadVideo(path, f"its audio does not decode ({error})") from error
    if stored is None:
        raise BadVideo(path, "its audio track is empty")
    seconds = max(position, 0) / stored if end is None else end - start
    return _assemble(path, pieces, layout, channels, stored, rate or stored, seconds), rate or stored


def _ticks(stream: av.AudioStream, seconds: float) -> int:
    return math.floor(seconds / stream.time_base)


def _waveform(frame: AudioFrame) -> Float32[np.ndarray, "S channels"]:
    """Samples as floats, full scale = 1."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, len(frame.layout.channels)).T
    if array.dtype == np.uint8:
        return ((array.astype(np.float32) - 128) / 128).T
    if array.dtype.kind == "i":
        return (array / np.float64(2 ** (8 * array.itemsize - 1))).astype(np.float32).T
    return array.astype(np.float32).T


def _assemble(
    path: str, pieces: list, layout: str, channels: int, stored: int, rate: int, seconds: float
) -> Float32[np.ndarray, "S channels"]:
    """Pieces put where they belong, with silence between them, at `rate`."""
    margin = round(PREROLL * stored)  # so that the resampler sees what lies on both sides
    length = max(round(seconds * stored), 0) + 2 * margin
    if max(length * channels, seconds * rate * channels) * 4 > MAX_BYTES:
        raise BadVideo(path, f"more than {MAX_BYTES >> 20} MiB of audio at once; read a shorter part")
    sound = np.zeros((length, channels), np.float32)
    for place, piece in pieces:
        first = place + margin
        low, high = max(first, 0), min(first + len(piece), length)
        if low < high:
            sound[low:high] = piece[low - first : high - first]
    if rate != stored:
        try:
            sound = _resample(sound, layout, stored, rate)
        except FAILURES as error:
            raise BadVideo(path, f"its audio cannot be resampled to {rate} Hz ({words(error)})") from error
    wanted, skip = round(seconds * rate), round(margin * rate / stored)
    sound = sound[skip : skip + wanted]
    return np.pad(sound, ((0, wanted - len(sound)), (0, 0)))


def _resample(
    sound: Float32[np.ndarray, "S channels"], layout: str, stored: int, rate: int
) -> Float32[np.ndarray, "R channels"]:
    resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
    blocks = []
    for start in range(0, len(sound), _BLOCK):
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(sound[start : start + _BLOCK].T), "fltp", layout)
        frame.sample_rate = stored
        blocks += [out.to_ndarray().T for out in resampler.resample(frame)]
    blocks += [out.to_ndarray().T for out in resampler.resample(None)]
    return np.concatenate(blocks)
