"""A published checkpoint as the folder of a run, whose parts other runs take over.

    python -m scripts.convert llama_hf model-*.safetensors --out runs/llama
    python main.py --config configs/internvideo2.py:stage3,s --config.init.lm=runs/llama ...

FILES are all files of one checkpoint: *.safetensors, *.npz, or *.pth and *.bin where torch is installed. Every tensor
has to find its place in our parameters, and every parameter its tensor. OUT/config.json holds the parts' keys, such as
config.model.lm, that the taking run's config has to agree with; take them from there. Parameters become float32.
"""

import argparse
import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags
from safetensors import SafetensorError, safe_open

from vfm import models, rules
from vfm.errors import UserError
from vfm.interop.golden import Names
from vfm.interop.verify import families, family_module
from vfm.train import checkpoint, cli
from vfm.train import config as configs

RUN_TIME = ("precision", "remat", "unroll", "record")  # of a network, not of what its parameters mean
# Keys of transformers' config.json that say nothing about the network.
BOOKKEEPING = {
    "architectures", "_name_or_path", "_commit_hash", "torch_dtype", "dtype", "transformers_version", "model_type",
    "auto_map", "text_config_dict", "vision_config_dict", "gradient_checkpointing", "output_attentions",
    "output_hidden_states", "return_dict", "torchscript", "use_bfloat16", "id2label", "label2id", "problem_type",
    "add_cross_attention", "is_decoder", "is_encoder_decoder", "chunk_size_feed_forward", "tie_encoder_decoder",
}  # fmt: skip
WRAPPERS = ("state_dict", "model", "module")  # under which torch files keep their tensors


def read_tensors(files: list[Path]) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint's files under their own names.

    Raises:
      UserError: no such file, another kind of file, or one that does not read.
    """
    found: dict[str, np.ndarray] = {}
    for file in files:
        if not file.is_file():
            raise UserError(f"'{file}': no such file")
        try:
            mine = _read(file)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise UserError(f"'{file}' does not read as {file.suffix}: {error}; fetch it again") from error
        if both := mine.keys() & found.keys():
            raise UserError(
                f"'{file}' holds '{min(both)}', which another file has too; give one checkpoint's files"
            )
        found |= mine
    return found


def _read(file: Path) -> dict[str, np.ndarray]:
    if file.suffix == ".safetensors":
        with safe_open(file, framework="flax") as tensors:  # numpy has no bfloat16
            return {name: np.asarray(tensors.get_tensor(name)) for name in tensors.keys()}
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return {name.removeprefix("params/"): arrays[name] for name in arrays.files}
    if file.suffix not in (".pth", ".pt", ".bin"):
        raise UserError(f"'{file}': expected *.safetensors, *.npz, *.pth, *.pt or *.bin")
    try:
        import torch
    except ImportError:
        raise UserError(
            f"'{file}' needs torch to be read, which is not installed; install it, or save the tensors as *.safetensors"
        ) from None
    values = torch.load(file, map_location="cpu", weights_only=True)
    for key in WRAPPERS:
        values = values[key] if isinstance(values.get(key), dict) else values
    return {name: x.float().numpy() for name, x in values.items() if isinstance(x, torch.Tensor)}


def read_config(file: Path) -> tuple[dict[str, Any], str]:
    """(constructor arguments, class) of transformers' config.json, or of a JSON object of an original's arguments.

    Raises:
      UserError: no such file, or it holds no JSON object.
    """
    if not file.is_file():
        raise UserError(f"'{file}': no such file; give --model_config, a JSON file of the model's arguments")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        name = (values.get("architectures") or [""])[0]
    except (ValueError, AttributeError) as error:
        raise UserError(f"'{file}' holds no JSON object of arguments: {error}") from error
    return _arguments(values), name


def _arguments(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _arguments(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in BOOKKEEPING and value is not None
    }


def all_keys(part: dict[str, Any]) -> dict[str, Any]:
    """A part with its builder's defaults, so that what another config says differently is noticed."""
    builder = getattr(models, part["name"])
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(builder).parameters.items()
        if parameter.default is not parameter.empty and name not in RUN_TIME
    }
    keys = defaults | part
    size = keys.get("image_size")
    if isinstance(size, tuple | list) and size[0] == size[1]:
        keys["image_size"] = size[0]
    return keys


def convert(
    family: str, files: list[Path], model_config: Path | None, base: str, out: Path
) -> dict[str, int]:
    """Write the run's folder; returns how many parameters each of its parts has.

    Raises:
      UserError: a file that does not read, a tensor without a place, or a folder that holds a run.
    """
    if checkpoint.steps(out):
        raise UserError(f"--out='{out}' holds checkpoints already; give another folder")
    module = family_module(family)
    if not hasattr(module, "parts"):
        raise UserError(f"family '{family}' has no part that a run can take; its numbers are only checked")
    arguments, name = read_config(model_config or files[0].parent / "config.json")
    tensors = read_tensors(files)
    shapes = {key: tuple(x.shape) for key, x in tensors.items()}
    about = Names(
        files[0], family, "", arguments, {"class": name}, shapes, sum(x.size for x in tensors.values())
    )
    parts = {part: all_keys(keys) for part, keys in module.parts(about).items()}
    mapping, template = module.template(about)
    tree = mapping.to_ours({key: x.astype(np.float32) for key, x in tensors.items()}, template)
    if not parts.keys() & tree.keys():
        tree = {next(iter(parts)): tree}
    config = _config(base, parts)
    out.mkdir(parents=True, exist_ok=True)
    configs.save_config(config, out)
    saved = checkpoint.Checkpoints(out, keep=1)
    saved.save(0, {"params": tree})
    saved.wait()
    saved.close()
    return {part: sum(x.size for x in rules.flatten(branch).values()) for part, branch in tree.items()}


def _config(base: str, parts: dict[str, dict[str, Any]]) -> ConfigDict:
    """A run's config with these parts; clips are as the encoder was made for."""
    config = config_flags.ConfigFileFlagParser("config").parse(base)
    with config.unlocked():
        for part, keys in parts.items():
            (config.objective if part == "pool" else config.model)[part] = ConfigDict(keys)
        if "encoder" in parts and isinstance(parts["encoder"].get("image_size"), int):
            encoder = SimpleNamespace(**parts["encoder"])
            config.data.frames, config.data.size = encoder.frames, encoder.image_size
    return config


def main() -> None:
    able = sorted(name for name, module in families().items() if hasattr(module, "parts"))
    parser = argparse.ArgumentParser(
        prog="python -m scripts.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("family", metavar="FAMILY", help=", ".join(able))
    parser.add_argument("files", metavar="FILES", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument(
        "--model_config", type=Path, help="JSON of its arguments; else config.json beside FILES"
    )
    parser.add_argument("--config", default="configs/common.py", help="the other keys of OUT/config.json")
    options = parser.parse_args()
    counts = convert(options.family, options.files, options.model_config, options.config, options.out)
    for part, count in counts.items():
        print(f"{part}: {count:,} parameters; --config.init.{part}={options.out}")


if __name__ == "__main__":
    cli.run(main)
