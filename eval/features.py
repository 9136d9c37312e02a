"""Features of frozen encoders, extracted once and kept on disk.

Axes: N clips, V views, T tokens, D width. A cache folder holds raw little-endian arrays (`tokens` [N,V,T,D],
`mean` and `cls` [N,V,D]) and meta.json; its name is the SHA-256 of everything that the numbers depend on.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import input_pipeline
from eval import controls
from eval.encoder import FrozenEncoder
from eval.feature_set import FeatureSet
from eval.sources import check_single, data_config
from input_pipeline.progress import Progress
from input_pipeline.spec import Spec
from input_pipeline.storage import digest
from vfm import models, ops
from vfm.errors import UserError

VERSION = 1  # of what a cache folder holds
HOW_FAST = frozenset(
    {"max_bad_fraction", "workers", "threads", "prefetch", "check", "stall_seconds"}
)  # data keys without effect on features
ROWS_OF_CALL = 64  # clips x views that go through the encoder at once, at most


@functools.cache
def _code() -> str:
    """Digest of the code that makes features, so that edited code makes new ones."""
    found = hashlib.sha256()
    for package in (models, ops, input_pipeline):
        folder = Path(package.__file__).parent
        for file in sorted(folder.rglob("*.py")):
            found.update(f"{package.__name__}/{file.relative_to(folder).as_posix()}".encode())
            found.update(file.read_bytes())
    return found.hexdigest()


def _key(encoder: FrozenEncoder, data: ConfigDict, files: list, how: list) -> str:
    """Name of the cache folder of an encoder's features on a source."""
    seen = {k: v for k, v in data.to_dict().items() if k not in HOW_FAST}
    return digest([VERSION, jax.__version__, _code(), encoder.identity(), seen, files, *how])


def _source_state(source: input_pipeline.Source) -> list:
    """Labels, and name, size and time of every file of a source, so that a changed file is a changed source."""

    labels = {name: column.tolist() for name, column in source.labels.items()}
    files = [[path, source.store.stamp(i)] for i, path in enumerate(source.paths)]
    return [files, labels, source.label_names]


class _Writer:
    """Appends to one raw array in a folder."""

    def __init__(self, folder: Path, name: str, dtype: str):
        self.file = open(folder / f"{name}.bin", "wb")
        self.dtype, self.shape, self.rows = np.dtype(dtype), None, 0

    def add(self, x: np.ndarray) -> None:
        self.shape, self.rows = x.shape[1:], self.rows + len(x)
        self.file.write(np.ascontiguousarray(x, self.dtype).tobytes())

    def close(self) -> dict:
        self.file.close()
        return {"shape": [self.rows, *(self.shape or ())], "dtype": self.dtype.name}


def _check(name: str, x: np.ndarray, ids: np.ndarray, dtype: str) -> None:
    if not np.isfinite(x).all():
        row = int(np.argmax(~np.isfinite(x).reshape(len(x), -1).all(1)))
        raise UserError(
            f"encoder '{name}': features of clip {int(ids[row])} are not finite (NaN or infinite); its parameters "
            "have diverged or config.precision is too narrow: evaluate an earlier checkpoint with --config.step=N"
        )
    if np.abs(x).max(initial=0) > np.finfo(dtype).max:
        raise UserError(
            f"encoder '{name}': a feature of {np.abs(x).max():.3g} does not fit config.feature_dtype={dtype}; "
            "use --config.feature_dtype=float32"
        )


def _encode(encoder: FrozenEncoder, video: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Tokens [B,V,T,D], their mean and cls [B,V,D] of video [B,V,F,H,W,3], in calls of one fixed size."""
    flat = video.reshape(-1, *video.shape[2:])
    tokens, cls = [], []
    for first in range(0, len(flat), ROWS_OF_CALL):
        part = flat[first : first + ROWS_OF_CALL]
        out = encoder(part)
        tokens.append(np.asarray(out.tokens, np.float32))
        cls.append(None if out.cls is None else np.asarray(out.cls, np.float32))
    tokens = np.concatenate(tokens).reshape(*video.shape[:2], *tokens[0].shape[1:])
    cls = None if cls[0] is None else np.concatenate(cls).reshape(*video.shape[:2], -1)
    return tokens, tokens.mean(axis=2), cls


def _fill(
    folders: dict[str, Path],
    encoders: list[FrozenEncoder],
    batches,
    dtype: str,
    with_tokens: bool,
    title: str,
    quiet: bool,
    control: str,
) -> None:
    """One pass over the data through all encoders, with the clips under a control."""
    writers: dict[str, dict[str, _Writer]] = {e.name: {} for e in encoders}
    kept: dict[str, list[np.ndarray]] = {}
    bar = Progress(batches.num_examples, title, "clips", quiet)
    for number, batch in enumerate(batches, 1):
        valid = np.asarray(batch["mask"]) > 0
        for key, value in batch.items():
            if key not in ("video", "mask") and np.asarray(value).ndim == 1:
                kept.setdefault(key, []).append(np.asarray(value)[valid])
        for encoder in encoders:
            # Padding goes through the network, so that every call has one shape, and is dropped here.
            video = controls.apply(
                control, np.asarray(batch["video"]), np.asarray(batch["id"]), 0, encoder.config.data.mean
            )
            tokens, mean, cls = (None if x is None else x[valid] for x in _encode(encoder, video))
            _check(encoder.name, tokens, batch["id"][valid], dtype)
            parts = {"mean": (mean, "float32"), "cls": (cls, "float32")}
            parts["tokens"] = (tokens if with_tokens else None, dtype)
            for name, (x, kind) in parts.items():
                if x is not None:
                    mine = writers[encoder.name]
                    if name not in mine:
                        mine[name] = _Writer(folders[encoder.name], name, kind)
                    mine[name].add(x)
        bar.to(min(number * len(valid), batches.num_examples))
    columns = {key: np.concatenate(parts) for key, parts in kept.items()}
    if not columns or len(columns["id"]) == 0:
        raise UserError(f"{title}: no readable clip; check the SPEC and the paths in it")
    bar.close(f"{title}: {len(columns['id']):,} clips through {', '.join(e.name for e in encoders)}")
    for encoder in encoders:
        arrays = {name: writer.close() for name, writer in writers[encoder.name].items()}
        meta = {
            "arrays": arrays,
            "columns": {key: value.tolist() for key, value in columns.items()},
            "label_names": batches.label_names,
            "bad_files": batches.bad_files,
        }
        (folders[encoder.name] / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def load(folder: Path, source: input_pipeline.Source) -> FeatureSet:
    """A finished cache folder of a source; tokens stay on disk until they are asked for."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    arrays = {
        name: np.memmap(folder / f"{name}.bin", a["dtype"], "r", shape=tuple(a["shape"]))
        for name, a in meta["arrays"].items()
    }
    columns = {key: np.asarray(value, np.int32) for key, value in meta["columns"].items()}
    ids = columns.pop("id")
    return FeatureSet(
        pooled={name: np.array(arrays[name]) for name in ("mean", "cls") if name in arrays},
        tokens=arrays.get("tokens"),
        ids=ids,
        columns=columns,
        label_names=meta["label_names"],
        bad_files=meta["bad_files"],
        words={name: [texts[i] for i in ids] for name, texts in source.words.items()},
    )


def extract(
    encoders: list[FrozenEncoder],
    spec: Spec,
    *,
    cache: Path,
    root: str = "",
    views: tuple[int, int] = (1, 1),
    batch_size: int = 64,
    dtype: str = "float16",
    with_tokens: bool = True,
    title: str = "features",
    quiet: bool = False,
    loading: Mapping[str, Any] | None = None,
    control: str = "none",
    key: str = "config.data",
) -> dict[str, FeatureSet]:
    """Features of all encoders on one source; only what the cache lacks is computed, in one pass for runs alike.

    Args:
      control: what is done to the clips, one of `eval.controls.CONTROLS`.
      key: what errors call the source.

    Raises:
      UserError: nothing is readable, features are not finite, or the disk is full.
    """
    keys, configs, sources = {}, {}, {}
    for encoder in encoders:
        configs[encoder.name] = config = data_config(encoder.config, spec, root, loading)
        source = sources[encoder.name] = input_pipeline.open_source(spec, config.root, key)
        how = [list(views), dtype, with_tokens, *([] if control == "none" else [control])]
        keys[encoder.name] = _key(encoder, config, _source_state(source), how)
    missing = [e for e in encoders if not (cache / keys[e.name] / "meta.json").exists()]
    for group in _alike(missing, configs):
        drafts = {e.name: cache / f"{keys[e.name]}.{e.name}.{os.getpid()}.part" for e in group}
        try:
            for draft in drafts.values():
                draft.mkdir(parents=True, exist_ok=True)
            config = configs[group[0].name]
            with input_pipeline.eval_batches(
                config, spec, batch_size=batch_size, views=tuple(views)
            ) as batches:
                _fill(drafts, group, batches, dtype, with_tokens, title, quiet, control)
            for encoder in group:
                shutil.rmtree(cache / keys[encoder.name], ignore_errors=True)
                drafts[encoder.name].rename(cache / keys[encoder.name])
        except OSError as error:
            raise UserError(
                f"cannot keep features in '{cache}': {error.strerror or error}; free space or use another --workdir"
            ) from error
        finally:
            for draft in drafts.values():
                shutil.rmtree(draft, ignore_errors=True)
    return {e.name: load(cache / keys[e.name], sources[e.name]) for e in encoders}


def check(config: ConfigDict, encoders: list[FrozenEncoder], specs: dict[str, Spec]) -> None:
    """Tasks, group and pooling exist, before any feature is extracted.

    Raises:
      UserError: one does not.
    """
    names = [*config.tasks, *([config.data.group] if config.protocol == "leave_one_group_out" else [])]
    for split, spec in specs.items():
        data = data_config(encoders[0].config, spec, config.data.root)
        source = input_pipeline.open_source(spec, data.root, f"config.data.{split}")
        for name in names:
            check_single(name, source)
    for encoder in encoders:
        if config.pooling == "cls" and encoder.outputs().cls is None:
            raise UserError(
                f"config.pooling='cls': encoder '{encoder.name}' has no such token; use --config.pooling=mean"
            )


def collect(
    encoders: list[FrozenEncoder], config, cache: Path, specs: dict[str, Spec], quiet: bool = False
) -> dict[str, dict[str, FeatureSet]]:
    """Features by encoder and split; what is judged in the views of the config, training clips in one.

    Test clips under a control are a split of their own, called "test/CONTROL".
    """
    by_group = config.protocol == "leave_one_group_out"
    out: dict[str, dict] = {e.name: {} for e in encoders}
    altered = [] if by_group else [("test", name) for name in config.controls if name != "none"]
    for split, control in [(split, "none") for split in specs] + altered:
        key = split if control == "none" else f"{split}/{control}"
        found = extract(
            encoders,
            specs[split],
            cache=cache,
            root=config.data.root,
            views=tuple(config.views) if by_group or split != "train" else (1, 1),
            batch_size=config.batch_size,
            dtype=config.feature_dtype,
            with_tokens="attentive" in config.probes and not by_group,
            loading=config.data,
            title=f"features of {key}",
            quiet=quiet,
            control=control,
            key=f"config.data.{split}",
        )
        for name, one in found.items():
            out[name][key] = one
    return out


def _alike(encoders: list[FrozenEncoder], configs: dict) -> Iterable[list[FrozenEncoder]]:
    """Encoders that see the same clips, together: decoding is shared."""
    groups: dict[str, list[FrozenEncoder]] = {}
    for encoder in encoders:
        config = configs[encoder.name].to_dict()
        # Normalisation happens on the device, after what is shared.
        config.pop("mean"), config.pop("std")
        groups.setdefault(digest(config), []).append(encoder)
    return groups.values()
