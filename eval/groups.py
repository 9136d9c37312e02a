"""Leave one group out: kNN over one small labelled set, each clip judged by the clips of all other groups.

Made for sets too small to split, where a group (the person, the room) would otherwise give the answer away.

Axes: N clips, D width.
"""

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from eval import knn, labels, results
from eval.feature_set import FeatureSet
from vfm.errors import UserError


def column(features: FeatureSet, name: str) -> tuple[Int[np.ndarray, " N"], list[str]]:
    """A column of the set as classes 0..C-1 that occur, and their names.

    Raises:
      UserError: there is no such column.
    """
    values, y = np.unique(features.labels(name), return_inverse=True)
    names = features.class_names(name)
    return y.astype(np.int32), [names[v] if names else str(v) for v in values]


def leave_one_group_out(
    x: Float[np.ndarray, "N D"],
    y: Int[np.ndarray, " N"],
    groups: Int[np.ndarray, " N"],
    *,
    k: int,
    classes: int,
    temperature: float,
) -> tuple[Int[np.ndarray, " N"], np.ndarray]:
    """kNN prediction of each clip from the clips of all other groups, and which clips can be scored at all.

    A clip whose class occurs in its own group only cannot be right, whatever the features: it is not scored.

    Raises:
      UserError: there is only one group.
    """
    if len(np.unique(groups)) < 2:
        raise UserError("leave_one_group_out needs at least two groups; check config.data.group")
    x = knn.normalise(x)
    similarity, rows = knn.nearest(x, x, k, excluded=groups[:, None] == groups[None])
    predictions = knn.votes(similarity, y[rows], k, classes, temperature).argmax(1)
    scorable = np.array([np.any((y == y[i]) & (groups != groups[i])) for i in range(len(y))])
    return predictions, scorable


def nearest_in_own_group(
    x: Float[np.ndarray, "N D"], groups: Int[np.ndarray, " N"]
) -> tuple[np.ndarray, float]:
    """Whether each clip's nearest neighbour is of its own group, and the share that chance would give.

    High = the features tell groups (people, rooms) apart, rather than what happens.
    """
    x = knn.normalise(x)
    _, rows = knn.nearest(x, x, 1, excluded=np.eye(len(x), dtype=bool))
    sizes = (groups[:, None] == groups[None]).sum(1) - 1
    return groups[rows[:, 0]] == groups, float(sizes.mean() / (len(x) - 1))


def run(
    features: dict[str, FeatureSet], config: ConfigDict, about: dict[str, dict]
) -> tuple[list[dict], dict[str, np.ndarray], dict[str, list[str]], list[str]]:
    """kNN for each encoder and task, and what share of clips lie nearest to one of their own group.

    Returns:
      rows, confusion matrices by row, class names by task, and notes for the reader.

    Raises:
      UserError: there is no task of which a class occurs in two groups, so that nothing can be scored.
    """
    rows, confusions, class_names, notes = [], {}, {}, []
    group_name = config.data.group
    for encoder, found in features.items():
        x = found.pooling(config.pooling).mean(axis=1)
        groups, group_names = column(found, group_name)
        keys = dict(
            encoder=encoder, probe="knn", labels="all", pooling=config.pooling, views=list(config.views),
            **about.get(encoder, {}),
        )  # fmt: skip
        for task in config.tasks:
            y, class_names[task] = column(found, task)
            labels.check(y, len(class_names[task]), task, "only")
            predictions, scorable = leave_one_group_out(
                x, y, groups,
                k=config.knn.group_k, classes=len(class_names[task]), temperature=config.knn.temperature,
            )  # fmt: skip
            if not scorable.any():
                notes.append(
                    f"{task}: no class occurs in two groups of '{group_name}', so there is no accuracy to report"
                )
                continue
            if not scorable.all():
                notes.append(
                    f"{task}: {int((~scorable).sum())} of {len(y)} clips have a class that occurs in their own group "
                    "only; they are neighbours but are not scored"
                )
            row, confusion = results.row(
                predictions[None, scorable], y[scorable], len(class_names[task]),
                **keys, task=task, split=f"leave one {group_name} out", protocol="leave_one_group_out",
                k=config.knn.group_k, groups=len(group_names),
            )  # fmt: skip
            rows.append(row)
            confusions[results.key(row)] = confusion
        own, chance = nearest_in_own_group(x, groups)
        notes.append(
            f"{encoder}: the nearest clip of {100 * own.mean():.1f} % of all {len(own)} clips is of the same "
            f"{group_name} ({100 * chance:.1f} % by chance; high = the features tell the {group_name} apart)"
        )
        rows.append(
            {
                **keys, "task": group_name, "split": "leave one clip out", "accuracy": float(own.mean()), "std": 0.0,
                "seeds": 1, "n": len(own), "protocol": "nearest_in_own_group", "k": 1, "majority": chance,
                "metric": "nearest in own group", "value": float(own.mean()), "chance": chance, "control": "none",
            }
        )  # fmt: skip
    return rows, confusions, class_names, list(dict.fromkeys(notes))
