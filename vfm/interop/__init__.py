"""Published checkpoints in and out: one module = one family of models.

A family's module is found by walking this package (and by name, see `verify.FURTHER`); it has

FAMILIES: names that golden files and checkpoints give it.
TOLERANCE (optional): largest error relative to an output's magnitude; 3e-5 unless given, 1e-5 for single operations.
NOISY (optional): for single files ("family.variant") and results, a larger error that is allowed because the original's
    own number, in float32, is that far from the same in float64.
evaluate(golden) -> {"output/...": array, "grad/...": array}: what our model makes of a `golden.Golden` file's inputs,
    under the file's own names.
optional(golden, name) (optional): why an output may be left out, such as a program that is not on this machine or a
    loss whose formula is not known, or "".
parts(names) -> {part: its keys} (optional): which parts of a model a `golden.Names` file's tensors fill, such as
    {"encoder": dict(name="vit", ...)}; scripts/convert.py makes checkpoints of them.
template(names) -> (Mapping, shapes): how a `golden.Names` file's tensors map, and the tree of shapes of our parameters.
"""
