"""Which library decodes: PyAV, or one that may be installed beside it.

T frames, H height, W width, C = 3 channels (red, green, blue).

PyAV always opens the file, lists its frames and says what is wrong with it, so that frame numbers, sizes and reasons
do not depend on the library. The others give pixels only, and whole frames, which are resized afterwards
(`transforms.resize`) instead of by the decoder: their clips differ from PyAV's by the rounding of that.
"""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from input_pipeline import transforms
from input_pipeline.decode import Video
from input_pipeline.errors import BadVideo
from input_pipeline.pixels import WindowOf
from vfm.errors import UserError

_AT_ONCE = 2**27  # bytes of whole frames in memory


class _Frames(Video):
    """A video whose pixels another library decodes: `_decode` gives frames as they are stored or upright."""

    def read(self, indices: Sequence[int], window_of: WindowOf | None = None) -> UInt8[np.ndarray, "T H W 3"]:
        """As `Video.read`."""
        height, width = self.size  # PyAV finds out whether it decodes at all, and its limits hold
        window = (window_of or transforms.whole_window)(height, width)
        places = [min(max(int(i), 0), self.num_frames - 1) for i in indices]
        wanted = sorted(set(places))
        step = max(_AT_ONCE // (height * width * 3), 1)
        clip = np.empty((len(places), window.rows, window.columns, 3), np.uint8)
        for start in range(0, len(wanted), step):
            some = wanted[start : start + step]
            frames = self._checked(some)
            if (window.height, window.width) == (height, width):
                frames = window.cut(frames)
            else:
                frames = transforms.resize(np.ascontiguousarray(frames), window)
            place_of = {index: i for i, index in enumerate(some)}
            for place, index in enumerate(places):
                if index in place_of:
                    clip[place] = frames[place_of[index]]
        return clip

    def _checked(self, indices: Sequence[int]) -> UInt8[np.ndarray, "T H W 3"]:
        try:
            frames = self._decode(indices)
        except (BadVideo, UserError):
            raise
        except (RuntimeError, ValueError, IndexError) as error:  # what these libraries raise at bad files
            what = str(error).strip().splitlines() or [type(error).__name__]
            raise BadVideo(self.path, f"does not decode ({what[0]})") from error
        if frames.shape[1:] != (*self.size, 3):
            raise BadVideo(
                self.path, f"frames of {frames.shape[1]}x{frames.shape[2]}, expected {self.size}; use pyav"
            )
        return frames

    def _decode(self, indices: Sequence[int]) -> UInt8[np.ndarray, "T H W 3"]:
        raise NotImplementedError


class _TorchCodec(_Frames):
    """Frames by torchcodec, on the processor, with one thread as PyAV has; it turns them upright itself."""

    def _decode(self, indices: Sequence[int]) -> UInt8[np.ndarray, "T H W 3"]:
        decoders = _installed("torchcodec.decoders", "torchcodec", "torchcodec (and torch)")
        decoder = decoders.VideoDecoder(
            self._file if isinstance(self._file, str) else self.content(),
            stream_index=self._container.stream.index,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
        )
        if len(decoder) != self.num_frames:
            raise BadVideo(
                self.path, f"torchcodec counts {len(decoder)} frames, PyAV {self.num_frames}; use pyav"
            )
        return decoder.get_frames_at(indices=list(indices)).data.numpy()


class _NvDec(_Frames):
    """Frames by a GPU's decoder (PyNvVideoCodec), brought back to memory."""

    def _decode(self, indices: Sequence[int]) -> UInt8[np.ndarray, "T H W 3"]:
        library = _installed("PyNvVideoCodec", "nvdec", "PyNvVideoCodec")
        if not isinstance(self._file, str) or self.rotation:
            raise BadVideo(self.path, "data.decoder=nvdec reads files whose frames need no turning; use pyav")
        decoder = library.SimpleDecoder(
            self._file, use_device_memory=False, output_color_type=library.OutputColorType.RGB
        )
        return np.stack([np.from_dlpack(frame) for frame in decoder.get_batch_frames_by_index(list(indices))])


DECODERS = {"pyav": Video, "torchcodec": _TorchCodec, "nvdec": _NvDec}


def open_video(file: str | os.PathLike | bytes, name: str | None = None, backend: str = "pyav") -> Video:
    """An open video, a context manager, decoded by the library that `backend` names.

    Args:
      file, name: as `Video` takes them.
      backend: pyav, torchcodec or nvdec (`data.decoder`).

    Raises:
      BadVideo: the file cannot be read.
      UserError: there is no such backend, or its library is not installed.
    """
    check_decoder(backend)
    return DECODERS[backend](file, name)


def check_decoder(backend: str) -> None:
    """Raises UserError where `data.decoder` names no library, or one that is missing."""
    if backend not in DECODERS:
        raise UserError(f"data.decoder={backend!r}: expected one of {', '.join(DECODERS)}")
    if backend == "torchcodec":
        _installed("torchcodec.decoders", "torchcodec", "torchcodec (and torch)")
    if backend == "nvdec":
        _installed("PyNvVideoCodec", "nvdec", "PyNvVideoCodec")


def _installed(module: str, backend: str, packages: str):
    """A library that is optional, imported only here."""
    import importlib

    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # the last two: its shared libraries are missing
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"data.decoder={backend}: {packages} cannot be imported ({why}); install it with its shared libraries, "
            f"or set data.decoder=pyav"
        ) from error
