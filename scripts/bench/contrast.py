"""Memory of a contrastive loss over a large batch: value and gradient, compiled for one device, never run.

    python -m scripts.bench.contrast [--rows 32768 --size 512 --chunks 512,1024,0]

Prints a table in Markdown: temporary memory of the compiled program beside the similarity matrix that it never holds.
"""

import argparse

import jax
import jax.numpy as jnp

from vfm.contrastive import infonce, sigmoid
from vfm.errors import UserError
from vfm.train.cli import run


def temporary_bytes(kind: str, rows: int, size: int, chunk: int) -> int:
    """Peak temporary memory, in bytes, of loss and gradient of `rows` pairs of embeddings.

    Args:
      kind: "infonce" or "sigmoid".
      rows, size: of the embeddings.
      chunk: columns compared at once; 0 = all.
    """

    def loss(text, video, scale, bias):
        if kind == "sigmoid":
            return sigmoid(text, video, scale, bias, chunk=chunk)[0]
        return infonce(text, video, scale, chunk=chunk)[0]

    embeddings, number = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((rows, size), ()))
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    compiled = step.lower(embeddings, embeddings, number, number).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench.contrast",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=32768, help="pairs of the batch (%(default)s)")
    parser.add_argument("--size", type=int, default=512, help="of an embedding (%(default)s)")
    parser.add_argument("--chunks", default="256,512,1024,2048,4096,0", help="0 = all columns (%(default)s)")
    arguments = parser.parse_args()
    for key in ("rows", "size"):
        if getattr(arguments, key) < 1:
            raise UserError(f"--{key} {getattr(arguments, key)}: expected a number from 1 on")
    chunks = arguments.chunks.split(",")
    if not all(chunk.strip().isdecimal() for chunk in chunks):
        raise UserError(
            f"--chunks '{arguments.chunks}': expected numbers from 0 on with commas, such as 512,1024,0"
        )
    matrix = 4 * arguments.rows**2 / 2**20
    print(
        f"{arguments.rows:,} pairs of {arguments.size}; one similarity matrix in float32 is {matrix:,.0f} MiB\n"
    )
    print("| chunk | InfoNCE, MiB | sigmoid, MiB |\n| --- | --- | --- |")
    for chunk in map(int, chunks):
        sizes = [
            temporary_bytes(kind, arguments.rows, arguments.size, chunk) / 2**20
            for kind in ("infonce", "sigmoid")
        ]
        print(f"| {chunk or 'all'} | " + " | ".join(f"{size:,.0f}" for size in sizes) + " |", flush=True)


if __name__ == "__main__":
    run(main)
