"""Frozen probes of the embedded data set: what the digit is, and how it moves."""

from configs.eval import common


def get_config():
    c = common.get_config()
    c.tasks = ("digit", "motion")
    c.labels = ("all", 25)
    return c
