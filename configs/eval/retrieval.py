"""Text-to-video and video-to-text retrieval."""

from configs.eval import text_common


def get_config():
    c = text_common.get_config()
    c.protocol = "retrieval"
    c.tasks = ()
    return c
