"""What an evaluation looks at: the source of each split, how it is read, and its columns of labels."""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

import input_pipeline
from eval.encoder import FrozenEncoder
from input_pipeline import spec as specs
from input_pipeline.labels import MultiLabel
from input_pipeline.spec import Spec, describe, folder_of
from vfm.errors import UserError

LOADING = ("max_bad_fraction", "workers", "threads", "cache")  # data keys an evaluation may set itself


def check_column(name: str, columns: Iterable[str], words: Iterable[str], spec: str) -> None:
    """There is a column of that name.

    Raises:
      UserError: there is none.
    """
    has = {*columns, *words} - {"caption"}
    if name not in has:
        raise UserError(
            f"config.tasks or config.data.group: '{name}' is no label column of {spec}; it has: "
            f"{', '.join(sorted(has)) or 'none'} (a column of integers or names in the CSV)"
        )


def check_single(name: str, source: input_pipeline.Source) -> None:
    """There is a column of that name, with one class for each clip.

    Raises:
      UserError: there is none, or its clips have several.
    """
    check_column(name, source.labels, source.words, f"'{source.name}'")
    if isinstance(source.labels.get(name), MultiLabel):
        raise UserError(
            f"config.tasks: clips of '{source.name}' have several classes of '{name}' each, and this evaluation knows "
            f"one; choose another column"
        )


def sibling(spec: Spec, split: str) -> Spec:
    """`split`.csv beside the CSV (or a folder beside the folder) that a run was trained on, read with its options.

    Raises:
      UserError: there is no such file.
    """
    beside = specs.sibling(spec, split) if spec else None
    if beside is None:
        raise UserError(
            f"config.data.{split} is not set and nothing of that name is beside '{describe(spec or '')}'; add "
            f"--config.data.{split}=SPEC"
        )
    return beside


def specs_of(data, encoders: list[FrozenEncoder], only_train: bool = False) -> dict[str, Spec]:
    """SPEC of each split: the evaluation config's, or else beside what the (first) run was trained on.

    Raises:
      UserError: one is not given and not found.
    """
    train = data.train or encoders[0].config.data.train
    if not train:
        raise UserError(
            "config.data.train is not set, neither here nor in the run; add --config.data.train=SPEC"
        )
    if only_train:
        return {"train": train}
    return {
        "train": train,
        "validation": data.validation or sibling(train, "validation"),
        "test": data.test or sibling(train, "test"),
    }


def data_config(
    run: ConfigDict, spec: Spec, root: str = "", loading: Mapping[str, Any] | None = None
) -> ConfigDict:
    """The data config of a run with another source.

    Args:
      run: the run's whole config.
      root: "" = the run's, if `spec` is beside what the run was trained on.
      loading: values of `LOADING` keys instead of the run's; None = the run's.
    """
    with run.copy_and_resolve_references().unlocked() as config:
        beside = folder_of(spec) == folder_of(config.data.train or "")
        with config.ignore_type():  # a path may take the place of a mapping, and the other way round
            config.data.train = spec
        config.data.root = root or (config.data.root if beside else "")
        for key in LOADING:
            if (value := (loading or {}).get(key)) is not None:
                config.data[key] = value
    return config.data
