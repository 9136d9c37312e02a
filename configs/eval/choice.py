"""Multiple choice: which of five captions is the clip's."""

from configs.eval import text_common


def get_config():
    c = text_common.get_config()
    c.protocol = "choice"
    c.tasks = ()
    return c
