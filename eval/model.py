"""Whole models of training runs: the objective with all its parameters, for evaluations beyond the encoder.

Axes: B clips, T frames, H W pixels, L tokens of text, E of an embedding.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from eval.encoder import RANDOM, check_names, initial_params, split_spec, stage_of
from input_pipeline.text import Layout, Row, caption_row
from input_pipeline.tokenizers import Tokenizer, tokenizer_of
from vfm import objectives
from vfm.errors import UserError
from vfm.train import checkpoint
from vfm.train.config import load_config

NEEDS = {  # method of an objective -> what has it
    "embed_video": "a contrastive objective (contrast)",
    "embed_text": "a contrastive objective (contrast)",
    "match": "a contrastive objective with a matching head (vtm)",
    "likelihood": "an objective that predicts text (next_token, captioner)",
    "generate": "an objective that predicts text (next_token, captioner)",
}


def load_model(run: str | Path, weights: str = "params", step: int = 0) -> tuple[ConfigDict, Any, dict]:
    """(config, objective, parameters of all its parts) of a run's folder, or of "random:RUN_DIR" before training.

    `weights`: params or ema; `step` 0 = the newest checkpoint.

    Raises:
      UserError: no config.json, no checkpoint, or no such weights in it.
    """
    config, params, _ = _load(str(run), weights, step)
    return config, objectives.build(config), params


def _load(place: str, weights: str, step: int) -> tuple[ConfigDict, dict, int]:
    run = Path(place.removeprefix(RANDOM))
    if not run.is_dir():
        raise UserError(f"encoder '{place}': '{run}' is no folder; give the --workdir of a training run")
    config = load_config(run)
    if place.startswith(RANDOM):
        params, at = initial_params(config), 0
    else:
        params, at = checkpoint.restore_params(run, step=step or None, which=weights)
    return config, jax.tree.map(jnp.asarray, params), int(at)


@dataclass(frozen=True, eq=False)
class Model:
    """A run's objective with fixed parameters.

    Attributes:
      name: of the encoder, in results.
      stage: of training, in results.
      step: of the checkpoint; 0 for an untrained one.
      sha256: of the parameters.
      cut: texts that were laid out and did not fit into a row.
    """

    name: str
    config: ConfigDict
    objective: Any
    params: dict
    step: int
    sha256: str
    stage: str
    untrained: bool = False
    cut: set[str] = field(default_factory=set)
    _compiled: dict = field(default_factory=dict, repr=False)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer.

        Raises:
          UserError: the run has none, its file is gone, or is another one.
        """
        found = tokenizer_of(self.config.data)
        if found is None:
            raise UserError(
                f"encoder '{self.name}': its run was trained without text (config.data.text.tokenizer is ''); give a "
                "run that was trained with captions"
            )
        return found

    @cached_property
    def layout(self) -> Layout:
        return Layout.from_config(self.config.data.text, self.tokenizer)

    def has(self, method: str) -> bool:
        return callable(getattr(self.objective, method, None))

    def require(self, *methods: str) -> None:
        """UserError where the objective lacks a method."""
        for method in methods:
            if not self.has(method):
                raise UserError(
                    f"encoder '{self.name}': objective '{self.config.objective.name}' has no {method}; this evaluation "
                    f"needs a run of {NEEDS[method]}"
                )

    def call(self, method: str, *arrays: Any, **static: Any) -> Any:
        """A method of the objective on arrays, compiled once for each shape and set of `static` options."""
        key = (method, tuple(sorted(static.items())), tuple(a is None for a in arrays))
        if key not in self._compiled:
            bound = getattr(self.objective, method)
            self._compiled[key] = jax.jit(lambda params, *rest: bound(params, *rest, **static))
        return self._compiled[key](self.params, *arrays)

    def rows(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`text`, `text_mask` and `text_loss` [n, L] of texts, framed as in training.

        Raises:
          UserError: a text is empty.
        """
        rows: list[Row] = []
        for text in texts:
            if not text.strip():
                raise UserError("an empty text cannot be looked for or compared; fill it in or leave it out")
            rows.append(caption_row(self.tokenizer, self.layout, text))
            if rows[-1].cut:
                self.cut.add(text)
        return tuple(np.stack([getattr(row, key) for row in rows]) for key in ("ids", "mask", "loss"))

    def prompt_ids(self, prompt: str | None = None) -> list[int]:
        """What every generated text begins behind: the begin token, if rows have one, and the run's prompt."""
        words = self.layout.prompt if prompt is None else prompt
        begin = [self.tokenizer.bos] if self.tokenizer.framing.bos else []
        return begin + (self.tokenizer.encode(words) if words else [])

    def embed_texts(self, texts: list[str], batch_size: int) -> Float[np.ndarray, "n E"]:
        """Unit vectors of texts, in calls of one size."""
        ids, mask, _ = self.rows(texts)
        found = []
        for first in range(0, len(texts), batch_size):
            part = [padded(x[first : first + batch_size], batch_size) for x in (ids, mask)]
            vectors = np.asarray(self.call("embed_text", *part), np.float32)
            found.append(vectors[: len(texts) - first])
        return self._finite(np.concatenate(found), "texts")

    def embed_videos(self, video: UInt8[np.ndarray, "B V T H W 3"]) -> Float[np.ndarray, "B E"]:
        """Unit vectors of clips, averaged over their views."""
        flat = np.ascontiguousarray(video.reshape(-1, *video.shape[2:]))
        vectors = np.asarray(self.call("embed_video", flat), np.float32)
        vectors = self._finite(vectors, "clips").reshape(*video.shape[:2], -1).mean(axis=1)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)

    def _finite(self, x: np.ndarray, what: str) -> np.ndarray:
        if not np.isfinite(x).all():
            raise UserError(
                f"encoder '{self.name}': embeddings of {what} are not finite (NaN or infinite); its parameters have "
                "diverged or config.precision is too narrow: evaluate an earlier checkpoint with --config.step=N"
            )
        return x


def padded(x: np.ndarray, count: int) -> np.ndarray:
    """Rows up to `count`, repeating the last one, so that every call has one shape."""
    return x if len(x) == count else np.concatenate([x, np.repeat(x[-1:], count - len(x), axis=0)])


def load_models(specs: list[str], weights: str = "params", step: int = 0, stage: str = "") -> list[Model]:
    """The models of "[NAME=]RUN_DIR" and "[NAME=]random:RUN_DIR", under different names.

    Raises:
      UserError: as `load_model`; two have one name, or none is given.
    """
    if not specs:
        raise UserError("--encoder is missing: give the --workdir of a training run")
    models = []
    for spec in specs:
        name, place = split_spec(spec)
        config, params, at = _load(place, weights, step)
        untrained = place.startswith(RANDOM)
        own = stage_of(config, untrained)
        models.append(
            Model(
                name,
                config,
                objectives.build(config),
                params,
                at,
                checkpoint.sha256(params),
                stage or own,
                untrained,
            )
        )
    check_names([m.name for m in models])
    return models
