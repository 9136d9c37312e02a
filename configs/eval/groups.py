"""kNN over one small labelled set, each clip judged by the clips of all other groups (people, scenes)."""

from configs.eval import common


def get_config():
    c = common.get_config()
    c.protocol = "leave_one_group_out"
    c.probes = ("knn",)
    return c
