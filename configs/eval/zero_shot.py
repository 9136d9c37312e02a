"""Zero-shot classification of the embedded data set by prompts: what the digit is, and how it moves."""

from configs.eval import text_common


def get_config():
    c = text_common.get_config()
    c.protocol = "zero_shot"
    c.tasks = ("digit", "motion")
    c.zero_shot.templates = ("a(n) {digit} {motion}",)
    return c
