"""Cheap probes for inside training: kNN and linear, one seed, no tokens kept."""

from configs.eval import common


def get_config():
    c = common.get_config()
    c.tasks = ("digit", "motion")
    c.probes = ("linear", "knn")
    c.seeds = 1
    return c
