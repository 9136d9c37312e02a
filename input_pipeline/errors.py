"""What reading a video can end with."""


class BadVideo(ValueError):
    """A file that gives no usable frames, and why."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class FewerFrames(BadVideo):
    """The file holds fewer frames than its packets promised; the video's `num_frames` tells how many from now on."""
