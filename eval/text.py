"""The evaluations with text, one after another over all models: what they need, and what they leave behind."""

from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from eval import captioning, choice, controls, retrieval, text_clips, zero_shot
from eval.model import Model
from eval.text_clips import Clips
from vfm.errors import UserError
from vfm.train.config import write_json

PROTOCOLS: dict[str, ModuleType] = {
    "zero_shot": zero_shot,
    "retrieval": retrieval,
    "captions": captioning,
    "choice": choice,
}
CAPTIONED = (
    "retrieval",
    "captions",
)  # compare with the clips' own captions; so does choice, where it asks for them


def check(config: ConfigDict) -> None:
    """Mistakes in a config that need no data.

    Raises:
      UserError: names the key.
    """
    controls.check(config.controls)
    if len(config.views) != 2 or not all(isinstance(v, int) and v >= 1 for v in config.views):
        raise UserError(f"config.views={tuple(config.views)}: expected (clips, crops), two numbers from 1")
    if config.batch_size < 1 or config.data.limit < 0:
        raise UserError(
            f"config.batch_size={config.batch_size}, data.limit={config.data.limit}: expected at least 1, and 0 or more"
        )
    if config.protocol == "zero_shot" and not config.tasks:
        raise UserError("config.tasks is empty; name the label columns whose classes are prompted for")
    if hasattr(PROTOCOLS[config.protocol], "check"):
        PROTOCOLS[config.protocol].check(config)


def run(
    models: list[Model], config: ConfigDict, quiet: bool = False
) -> tuple[list[dict], dict, list[str], list[dict]]:
    """Rows, extras by encoder, notes for the reader, and files that could not be read.

    Raises:
      UserError: a model or the data does not fit the protocol.
    """
    protocol = PROTOCOLS[config.protocol]
    captioned = config.protocol in CAPTIONED or (
        config.protocol == "choice" and config.choice.source == "captions"
    )
    rows, extras, notes, bad = [], {}, [], {}
    for model in models:
        clips, found = text_clips.open_clips(model, config, captioned)
        notes += found
        results, extras[model.name], found = protocol.run(model, clips, config, quiet)
        notes += found
        if model.cut:
            notes.append(
                f"{len(model.cut)} different texts are longer than the {model.layout.length} tokens of encoder "
                f"'{model.name}' (data.text.length) and are compared as far as they fit, such as "
                f"'{min(model.cut)[:60]}'"
            )
        bad |= clips.bad_files
        about = dict(
            protocol=config.protocol, split=_split(clips), step=model.step, params_sha256=model.sha256
        )
        rows += [{"encoder": model.name, "stage": model.stage} | row | about for row in results]
    return rows, extras, list(dict.fromkeys(notes)), list(bad.values())


def _split(clips: Clips) -> str:
    """What results call the clips: test, validation ... or the file's name."""
    return Path(clips.spec).stem


def save(workdir: Path, extras: dict) -> None:
    """What results.jsonl has no place for: samples.json (prompts, captions, answers) and the frames that were shown."""
    workdir.mkdir(parents=True, exist_ok=True)
    frames = {name: mine.pop("frames") for name, mine in extras.items() if "frames" in mine}
    if frames:
        captioning.save_frames(workdir, frames)
    write_json(workdir / "samples.json", extras)
