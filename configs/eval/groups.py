"""kNN over one small labelled set, each clip judged by the clips of all other groups (people, scenes).

The set is one CSV with a column for the group, such as `path,hands,signer`:

    python -m eval --config configs/eval/groups.py --encoder RUN_DIR --encoder random:RUN_DIR --workdir DIR \\
        --config.data.train=signs.csv --config.data.group=signer --config.tasks="('hands',)"
"""

from configs.eval import common


def get_config():
    c = common.get_config()
    c.protocol = "leave_one_group_out"
    c.probes = ("knn",)
    return c
