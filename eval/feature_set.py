"""Features of clips in memory, with the clips' labels.

Axes: N clips, V views, T tokens, D width.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from eval.sources import check_column
from vfm.errors import UserError


@dataclass
class FeatureSet:
    """Features of one encoder on one split, with the clips' labels."""

    pooled: dict[str, Float[np.ndarray, "N V D"]]  # by pooling: mean, and cls where there is one
    tokens: Float[np.ndarray, "N V T D"] | None
    columns: dict[str, Int[np.ndarray, " N"]]  # label columns
    ids: Int[np.ndarray, " N"]  # index of each clip in its source
    label_names: dict[str, list[str]] = field(default_factory=dict)
    bad_files: list[dict] = field(default_factory=list)
    words: dict[str, list[str]] = field(default_factory=dict)  # text columns, a text for each clip

    def __len__(self) -> int:
        return len(self.ids)

    def pooling(self, name: str) -> Float[np.ndarray, "N V D"]:
        """Pooled features.

        Raises:
          UserError: the encoder has no such token.
        """
        if name not in self.pooled:
            raise UserError(
                f"config.pooling='{name}': this encoder offers {', '.join(sorted(self.pooled))}; choose one of them"
            )
        return self.pooled[name]

    def labels(self, name: str) -> Int[np.ndarray, " N"]:
        """One column as classes; words are classes in sorted order (`class_names`).

        Raises:
          UserError: there is none of that name.
        """
        check_column(name, self.columns, self.words, "the data")
        if name in self.columns:
            return self.columns[name]
        return np.unique(self.words[name], return_inverse=True)[1].astype(np.int32)

    def class_names(self, name: str) -> list[str] | None:
        """Names of the classes of a column, where they are known.

        Raises:
          UserError: there is no such column.
        """
        check_column(name, self.columns, self.words, "the data")
        if name in self.columns:
            return self.label_names.get(name)
        return sorted(set(self.words[name]))
