"""Captions of the embedded data set: written, scored against the true ones, and read for digit and motion."""

from configs.eval import text_common


def get_config():
    c = text_common.get_config()
    c.protocol = "captions"
    c.tasks = ("digit", "motion")
    c.captions.blind = "blank"  # without a video, a model that never trained so says nothing at all
    return c
