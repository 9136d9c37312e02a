"""HMDB51's official splits: a folder of `CLASS_test_split1.txt`, each with lines `clip.avi 1` (1 = train, 2 = test).

`split` is "train" or "test", `fold` 1, 2 or 3. Clips are in folders of their classes, which are numbered in sorted
order.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from input_pipeline.formats.base import Document, Table, fill
from vfm.errors import UserError

OPTIONS = {"template": "{label}/{id}", "split": "", "fold": 1}
_USES = {"train": "1", "test": "2"}
_FILE = re.compile(r"^(\w+)_test_split(\d)\.txt$")


def detect(document: Document) -> bool:
    return document.path.is_dir() and any(_FILE.match(file.name) for file in document.path.iterdir())


def read(document: Document, options: Mapping[str, Any]) -> Table:
    if options["split"] not in _USES:
        raise UserError(
            f"{document}: holds the training and test lists of HMDB51; say which with split='train' or split='test' "
            f"(found split='{options['split']}')"
        )
    files = {
        match[1]: file
        for file in sorted(document.path.glob("*.txt"))
        if (match := _FILE.match(file.name)) and int(match[2]) == int(options["fold"])
    }
    if not files:
        raise UserError(f"{document}: no list of fold={options['fold']}; expected 1, 2 or 3")
    names = sorted(files)
    table, labels = Table([], label_names={"label": names}), []
    for label, name in enumerate(names):
        for number, line in Document(files[name]).lines:
            clip, _, use = line.strip().rpartition(" ")
            if use not in ("0", "1", "2") or not clip.strip():
                raise UserError(f"{files[name]} line {number}: '{line.strip()}'; expected 'clip.avi 0|1|2'")
            if use == _USES[options["split"]]:
                row = {"label": name, "id": clip.strip()}
                table.paths.append(fill(options["template"], row, f"{files[name]} line {number}"))
                labels.append(label)
    table.labels["label"] = np.array(labels, np.int32)
    table.words["label"] = [names[label] for label in labels]
    return table
