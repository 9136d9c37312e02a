"""Which sample stands in which slot: a function of the seed and the slot alone.

A slot shows one video. With one source, slot s is the video at place s % n of a permutation of all n usable samples
drawn for epoch s // n. With several, a slot first belongs to one of them: the turns of sources follow a van der Corput
sequence, whose points fall into any interval as often as its length says to within a few, in every stretch; and how
many of the first s points did so can be counted without listing them. That number is the slot's place in the endless
order of its source. So any slot can be computed directly.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int32, Int64

_BITS = 32
_CYCLE = 1 << _BITS  # points after which the sequence begins anew
_MASKS = (0x55555555, 0x33333333, 0x0F0F0F0F, 0x00FF00FF, 0x0000FFFF)
_KEPT = 2  # permutations of one source


def _reversed(numbers: np.ndarray) -> np.ndarray:
    """Numbers below 2^32 with their bits in reverse order."""
    for power, mask in enumerate(_MASKS):
        shift = 1 << power
        numbers = (numbers >> shift & mask) | (numbers & mask) << shift
    return numbers


class Turns:
    """Which of S sources has turn i, in proportion to their weights.

    Args:
      seed: of the sequence; other seeds start it elsewhere.
      starts: [P] the first turn of each stretch of constant weights, from 0 on.
      weights: [P, S] of each stretch, not all 0.
    """

    def __init__(self, seed: int, starts: Sequence[int], weights: Float64[np.ndarray, "P S"]):
        self._shift = int(np.random.default_rng((seed, 5)).integers(_CYCLE))
        self._starts = np.asarray(starts, np.int64)
        shares = np.cumsum(weights, 1) / np.sum(weights, 1, keepdims=True)
        # Source s has the points from bounds[s] to bounds[s + 1].
        self._bounds = np.zeros((len(shares), shares.shape[1] + 1), np.int64)
        self._bounds[:, 1:] = np.round(shares * _CYCLE)
        self._bounds[:, -1] = _CYCLE
        # Turns of the sources before s before each stretch, less those that they would have had by its own weights.
        first, last = (
            self._below(turns[:, None], bounds)
            for turns, bounds in ((self._starts, self._bounds), (self._starts[1:], self._bounds[:-1]))
        )
        self._offset = -first
        self._offset[1:] += np.cumsum(last - first[:-1], 0)

    def __call__(
        self, turns: Int64[np.ndarray, "n"]
    ) -> tuple[Int32[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        """(which source, how many turns it had before) of each turn."""
        piece = self._piece(turns)
        points = _reversed(turns % _CYCLE) ^ self._shift
        sources = (points[:, None] >= self._bounds[piece, 1:]).sum(1)
        had = self._up_to(turns, piece, sources + 1) - self._up_to(turns, piece, sources)
        return sources.astype(np.int32), had

    def had(self, turn: int) -> list[int]:
        """How many of the first `turn` turns each source had."""
        sources = np.arange(self._bounds.shape[1])
        return np.diff(self._up_to(np.int64(turn), self._piece(turn), sources)).tolist()

    def _piece(self, turns: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, turns, side="right") - 1

    def _up_to(self, turns: np.ndarray, piece: np.ndarray, source: np.ndarray) -> np.ndarray:
        """How many turns before these, which lie in the stretches `piece`, the sources before `source` had."""
        return self._offset[piece, source] + self._below(turns, self._bounds[piece, source])

    def _below(self, count: np.ndarray, bound: np.ndarray) -> np.ndarray:
        """How many of the first `count` points lie below `bound`."""
        cycles, count = np.divmod(np.asarray(count, np.int64)[..., None], _CYCLE)
        bound = np.asarray(bound, np.int64)[..., None]
        # For each bit of `count` the points [prefix, prefix + 2^bit): their high bits take every value once, their low
        # ones are all equal.
        bit = np.arange(_BITS)
        has, prefix = count >> bit & 1, count >> (bit + 1) << (bit + 1)
        low = (1 << (_BITS - bit)) - 1
        equal = (_reversed(prefix) ^ self._shift) & low
        inside = (bound >> (_BITS - bit)) + (equal < (bound & low))
        return cycles[..., 0] * bound[..., 0] + (has * inside).sum(-1)


class Order:
    """Slots -> (source, sample).

    Args:
      seed, stream: of the permutations.
      usable: samples that each source shows.
      turns: of several sources; None where there is one.
      together: slots in a row that belong to one source.
    """

    def __init__(
        self, seed: int, stream: int, usable: Sequence[int], turns: Turns | None = None, together: int = 1
    ):
        self._seed, self._stream, self._counts = seed, stream, list(usable)
        self._turns, self._together = turns, together
        self._kept: dict[tuple[int, int], np.ndarray] = {}

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_kept": {}}

    def __call__(
        self, slots: Int64[np.ndarray, "n"]
    ) -> tuple[Int32[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        """(source, place among its usable samples) of each slot."""
        if self._turns is None:
            sources, numbers = np.zeros(len(slots), np.int32), np.asarray(slots, np.int64)
        else:
            turn, inside = np.divmod(np.asarray(slots, np.int64), self._together)
            sources, numbers = self._turns(turn)
            numbers = numbers * self._together + inside
        places = np.empty(len(slots), np.int64)
        for source in np.unique(sources).tolist():
            epochs, within = np.divmod(numbers, self._counts[source])
            for epoch in np.unique(epochs[sources == source]).tolist():
                rows = (sources == source) & (epochs == epoch)
                places[rows] = self._permutation(source, epoch)[within[rows]]
        return sources, places

    def numbers(self, slots: int) -> list[int]:
        """How many of the first `slots` slots each source has."""
        if self._turns is None:
            return [slots]
        turns, inside = divmod(slots, self._together)
        numbers = [turn * self._together for turn in self._turns.had(turns)]
        if inside:
            numbers[int(self._turns(np.array([turns]))[0][0])] += inside
        return numbers

    def _permutation(self, source: int, epoch: int) -> np.ndarray:
        key = source, epoch
        found = self._kept.get(key)
        if found is None:
            rng = np.random.default_rng((self._seed, self._stream, epoch, source))
            found = rng.permutation(self._counts[source]).astype(np.int32)  # half the memory, in each process
            old = sorted(k for k in list(self._kept) if k[0] == source)[: -(_KEPT - 1)]
            for k in old:
                self._kept.pop(k, None)
            self._kept[key] = found
        return found
