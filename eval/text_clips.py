"""Clips with their captions for the evaluations with text: which ones, in what order, under which control.

Axes: N clips, B of a batch, V views, T frames, H W pixels, E of an embedding.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

import input_pipeline
from eval import controls, sources
from eval.model import Model
from input_pipeline import Source
from input_pipeline.progress import Progress
from input_pipeline.spec import Spec
from input_pipeline.text import has_words
from vfm.errors import UserError


@dataclass
class Clips:
    """The clips that an evaluation asks about.

    Attributes:
      source: they come from.
      chosen: which of its samples take part, before any is read.
      bad_files: what could not be read, filled while reading.
    """

    spec: Spec
    source: Source
    chosen: Int[np.ndarray, " N"]
    bad_files: dict[str, dict] = field(default_factory=dict)

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of a sample that hold a word."""
        if not self.source.captions:
            return ()
        return tuple(text for text in self.source.captions[index] if has_words(text))

    def classes(self, task: str) -> tuple[Int[np.ndarray, " n"], list[str]]:
        """The labels of all samples and the names of the classes.

        Raises:
          UserError: no such column, or nothing names its classes.
        """
        sources.check_single(task, self.source)
        names = self.source.label_names.get(task)
        if task in self.source.labels and names:
            return self.source.labels[task], names
        if task in self.source.words:
            found, labels = np.unique(self.source.words[task], return_inverse=True)
            return labels.astype(np.int32), found.tolist()
        raise UserError(
            f"config.tasks: the classes of '{task}' have no names, which prompts and captions are made of; name them "
            f"in a classes.json beside '{self.spec}'"
        )


def open_clips(model: Model, config: ConfigDict, captioned: bool) -> tuple[Clips, list[str]]:
    """The clips of `config.data`, and notes on those that are left out.

    Args:
      captioned: only clips with captions take part.

    Raises:
      UserError: no clips, or none with a caption.
    """
    spec = config.data.test or sources.sibling(model.config.data.train, "test")
    data = sources.data_config(model.config, spec, config.data.root)
    source = input_pipeline.open_source(spec, data.root, "config.data.test", data.text.column)
    clips = Clips(spec, source, np.arange(len(source)))
    notes = []
    if captioned:
        has = np.array([bool(clips.captions(i)) for i in range(len(source))], bool)
        if not has.any():
            raise UserError(
                f"'{spec}' has no captions (column '{data.text.column}'), which this evaluation compares with; add the "
                "column, or give another --config.data.test"
            )
        if not has.all():
            named = ", ".join(source.paths[i] for i in np.flatnonzero(~has)[:5])
            notes.append(
                f"{int((~has).sum())} of {len(source)} clips have no caption and are left out: {named}"
            )
        clips.chosen = np.flatnonzero(has)
    if 0 < config.data.limit < len(clips.chosen):
        places = np.linspace(0, len(clips.chosen) - 1, config.data.limit).round().astype(int)
        clips.chosen = clips.chosen[places]
        notes.append(f"config.data.limit: {len(places)} of {len(source)} clips, evenly spread")
    return clips, notes


def batches(
    model: Model, clips: Clips, config: ConfigDict, quiet: bool = False, title: str = ""
) -> Iterator[tuple[np.ndarray, Int[np.ndarray, " B"], np.ndarray]]:
    """(video [B,V,T,H,W,3], ids, which rows count) of all batches; unreadable clips do not count and are noted."""
    data = sources.data_config(model.config, clips.spec, config.data.root, config.data)
    title = title or f"clips through {model.name}"
    bar = Progress(len(clips.source), title, "clips", quiet)
    chosen = np.zeros(len(clips.source), bool)
    chosen[clips.chosen] = True
    with input_pipeline.eval_batches(
        data, clips.spec, batch_size=config.batch_size, views=tuple(config.views)
    ) as found:
        for number, batch in enumerate(found, 1):
            ids = np.asarray(batch["id"])
            counts = (np.asarray(batch["mask"]) > 0) & chosen[ids]
            if counts.any():
                yield batch["video"], ids, counts
            bar.to(min(number * config.batch_size, len(clips.source)))
        clips.bad_files |= {f["path"]: f for f in found.bad_files}
    bar.close(f"{title}: {int(chosen.sum()):,}")


def over_clips(
    model: Model,
    clips: Clips,
    config: ConfigDict,
    work: Callable[[str, np.ndarray, np.ndarray], np.ndarray],
    quiet: bool = False,
    title: str = "",
) -> tuple[dict[str, np.ndarray], Int[np.ndarray, " N"]]:
    """`work(control, video, ids)` of every batch under every control, gathered; and the ids of the rows.

    Rows that do not count have the id -1; they are there so that every batch has one shape.

    Raises:
      UserError: no clip is readable.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in config.controls}
    kept = []
    for video, ids, counts in batches(model, clips, config, quiet, title):
        for name in config.controls:
            shown = controls.apply(name, video, ids, config.seed, model.config.data.mean)
            # Rows that fill up a batch carry the id 0, which is some clip's.
            found[name].append(np.asarray(work(name, shown, np.where(counts, ids, -1)))[counts])
        kept.append(ids[counts])
    if not kept:
        raise UserError(f"'{clips.spec}': no readable clip; check the SPEC and the paths in it")
    return {name: np.concatenate(parts) for name, parts in found.items()}, np.concatenate(kept)


def embed(
    model: Model, clips: Clips, config: ConfigDict, quiet: bool = False
) -> tuple[dict[str, Float[np.ndarray, "N E"]], Int[np.ndarray, " N"]]:
    """Unit vectors of the clips by control, and their ids."""
    return over_clips(
        model,
        clips,
        config,
        lambda control, video, ids: model.embed_videos(video),
        quiet,
        f"{model.name}: clips",
    )


def standard_error(hits: np.ndarray) -> float:
    """Of a mean over examples."""
    return float(np.std(hits) / np.sqrt(len(hits)))


def row(metric: str, task: str, value: float, chance: float | None, control: str, n: int, **more) -> dict:
    """A result as results.jsonl keeps it, but for the encoder."""
    found = dict(metric=metric, task=task, value=float(value), chance=chance, control=control, n=int(n))
    return found | more
