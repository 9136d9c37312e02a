"""From a source of videos to a prepared set: one shard, and the whole with what is left to do.

A shard is complete when its note lies beside it; a run that was ended goes on with the shards that have none, and what
it writes is what it would have written at once.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from input_pipeline import records
from input_pipeline.atomic import is_partial
from input_pipeline.plan import PackedVideos, Plan
from input_pipeline.workers import Lost, Workers
from vfm.errors import UserError

_LOCK = ".lock"

Done = Callable[[dict[str, Any]], None]  # called with the note of each video


# One shard


def make_shard(
    plan: Plan,
    out: Path,
    shard: int,
    packed: Iterable[dict[str, Any] | Lost],
    done: Done = lambda note: None,
) -> None:
    """Writes a shard and, when it is complete, its note.

    Args:
      plan: the whole.
      out: the folder.
      shard: its number.
      packed: its videos in order, as `PackedVideos` gives them.
      done: told about each video.

    Raises:
      OSError: it cannot be written.
    """
    notes: list[dict[str, Any]] = []

    def packed_records() -> Iterator[bytes]:
        count = 0
        for video in packed:
            note = {"bad": video.reason} if isinstance(video, Lost) else video["note"]
            if "bad" not in note:
                note = note | {"record": count}
                count += 1
                yield video["packed"]
            notes.append(note)
            done(note)

    path = out / records.shard_name(shard, plan.shards)
    records.write_shard(path, packed_records())
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    note = dict(file=path.name, bytes=path.stat().st_size, sha256=digest, videos=notes)
    records.write_text(_note_path(plan, out, shard), json.dumps(note) + "\n")


def _note_path(plan: Plan, out: Path, shard: int) -> Path:
    return (out / records.shard_name(shard, plan.shards)).with_suffix(".json")


def read_note(plan: Plan, out: Path, shard: int) -> dict[str, Any] | None:
    """What the note of a complete shard says; None where there is none."""
    try:
        note = json.loads(_note_path(plan, out, shard).read_text())
        return note if (out / note["file"]).stat().st_size == note["bytes"] else None
    except (OSError, ValueError, KeyError):
        return None


# The whole


def begin(plan: Plan, out: Path) -> bool:
    """Makes the folder ready, or finds out that everything is there already (False).

    Raises:
      UserError: the folder holds something else.
    """
    digest = plan.digest()
    out.mkdir(parents=True, exist_ok=True)
    for file, what in ((records.MANIFEST, "a prepared set"), (records.PLAN, "an unfinished preparation")):
        if (out / file).exists():
            try:
                found = json.loads((out / file).read_text())
                same = found["digest"] == digest
            except (ValueError, KeyError, TypeError):
                found, same = None, False
            if not same:
                raise UserError(
                    f"--out='{out}': holds {what} that is not this one ({_difference(found, plan)}); choose another "
                    f"folder, or remove this one"
                )
            if file == records.MANIFEST:
                _remove_notes(plan, out)
                return False
            for name in os.listdir(out):
                if is_partial(name):
                    (out / name).unlink(missing_ok=True)
            return True
    if others := sorted(name for name in os.listdir(out) if name != _LOCK and not is_partial(name)):
        raise UserError(f"--out='{out}': is not empty ('{others[0]}'); choose a new folder")
    asked = {"format": records.FORMAT, "digest": digest} | _asked(plan)
    records.write_text(out / records.PLAN, json.dumps(asked) + "\n")
    return True


def _asked(plan: Plan) -> dict[str, Any]:
    """What a plan and a manifest say alike about what was asked for."""
    return dict(recipe=plan.recipe(), shard_size=plan.shard_size, samples=len(plan.source))


def _difference(found: dict[str, Any] | None, plan: Plan) -> str:
    """What a plan or manifest says that `plan` does not."""
    if not isinstance(found, dict):
        return "its description is damaged"
    flat = [some.get("recipe", {}) | some for some in (found, _asked(plan))]
    for name in ("as_is", *plan.recipe(), "shard_size", "samples"):
        there, here = (some.get(name) for some in flat)
        if there != here:
            there, here = ("not given" if value is None else value for value in (there, here))
            return f"{name} is {there} there and {here} here"
    return "its videos, labels or captions are others"


def unfinished(plan: Plan, out: Path, done: Done = lambda note: None) -> list[int]:
    """The shards that are still to be made; `done` is told about the videos of the others."""
    missing = []
    for shard in range(plan.shards):
        note = read_note(plan, out, shard)
        if note is None:
            missing.append(shard)
        for video in note["videos"] if note else ():
            done(video)
    return missing


def prepare(
    plan: Plan, out: Path, workers: int = 0, seconds: float = 0.0, done: Done = lambda note: None
) -> bool:
    """Prepares a source in a folder, or goes on where an earlier run was ended; False = it was complete already.

    Args:
      plan: what.
      out: the folder.
      workers: processes; 0 = as many as there are cores.
      seconds: that one video may take; 0 = any time.
      done: told about each video, those of earlier runs too.

    Raises:
      UserError: the folder holds something else, or another run is at work in it.
      OSError: a file cannot be written.
    """
    with alone(out):
        if not begin(plan, out):
            return False
        shards = unfinished(plan, out, done)
        numbers = [number for shard in shards for number in plan.members(shard)]
        count = max(1, min(workers or os.cpu_count() or 1, len(numbers)))
        with Workers(PackedVideos(plan), count, 2 * count, limit=seconds, indices=numbers) as packed:
            for shard in shards:
                make_shard(plan, out, shard, itertools.islice(packed, len(plan.members(shard))), done)
        finish(plan, out)
    return True


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keeps a second run out of the folder."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / _LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A run that has just ended may have removed the file between its being opened and being locked.
            if not os.path.samestat(os.fstat(lock.fileno()), os.stat(out / _LOCK)):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as error:
            raise UserError(f"--out='{out}': another run is at work there; wait for it, or end it") from error
        try:
            yield
        finally:
            (out / _LOCK).unlink(missing_ok=True)


def finish(plan: Plan, out: Path) -> dict[str, Any]:
    """Writes what makes shards a set; gives its manifest.

    Raises:
      UserError: a shard is missing.
    """
    notes = [read_note(plan, out, shard) for shard in range(plan.shards)]
    if None in notes:
        raise UserError(
            f"--out='{out}': shard {notes.index(None)} is missing; run the same command again to make it"
        )
    index: list[dict[str, Any]] = [{} for _ in plan.source.paths]
    bad, damaged, totals = {}, {}, dict(videos=0, frames=0, bytes=0)
    for number, note in enumerate(video for shard in notes for video in shard["videos"]):
        shard = number // plan.shard_size
        for i in plan.videos[number]:
            reason = plan.source.skipped.get(i) or note.get("bad")
            place = {"bad": reason} if reason else {"shard": shard, "record": note["record"]}
            index[i] = plan.sample(i) | place
        name = plan.original(plan.videos[number][0])
        if "bad" in note:
            bad[name] = note["bad"]
            continue
        totals["videos"] += 1
        for key in ("frames", "bytes"):
            totals[key] += note[key]
        if note["damage"]:
            damaged[name] = note["damage"]
    manifest = dict(
        format=records.FORMAT,
        version=records.VERSION,
        source=os.path.basename(plan.source.name.rstrip("/")),
        digest=plan.digest(),
        **_asked(plan),
        made_with={"av": importlib.metadata.version("av")},
        **totals,
        bad=len(bad),
        damaged=len(damaged),
        shards=[{key: note[key] for key in ("file", "bytes", "sha256")} for note in notes],
        columns=plan.columns(),
        label_names=plan.source.label_names,
    )
    lines = [json.dumps(sample, ensure_ascii=False, separators=(",", ":")) for sample in index]
    records.write_text(out / records.INDEX, "".join(f"{line}\n" for line in lines))
    for file, reasons in ((records.BAD, bad), (records.DAMAGED, damaged)):
        records.write_text(out / file, records.reasons_csv(reasons))
    records.write_text(out / records.MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    _remove_notes(plan, out)
    return manifest


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a prepared set that is there."""
    return json.loads((out / records.MANIFEST).read_text(encoding="utf-8"))


def _remove_notes(plan: Plan, out: Path) -> None:
    for shard in range(plan.shards):
        _note_path(plan, out, shard).unlink(missing_ok=True)
    (out / records.PLAN).unlink(missing_ok=True)
