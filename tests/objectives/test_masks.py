"""Masks have exact counts, are disjoint and complete, and depend on the sample alone."""

import jax
import numpy as np
import pytest

from vfm import masking
from vfm.errors import UserError

GRID = (8, 14, 14)


def draw(mask, ids, grid=GRID, **extra):
    batch = {"id": np.asarray(ids, np.int32), **extra}
    return jax.tree.map(np.asarray, masking.draw_batch(mask, jax.random.key(3), batch, grid))


@pytest.mark.parametrize(
    "mask, kept, predicted",
    [
        (masking.tube(0.9), 160, 1408),
        (masking.random(0.9), 156, 1412),
        (masking.running_cell(0.9), 160, 784),
    ],
)
def test_counts_are_the_published_ones(mask, kept, predicted):
    drawn = draw(mask, range(6))
    assert drawn.keep.shape == (6, kept) and drawn.predict.shape == (6, predicted)
    for keep, predict, weight in zip(*drawn, strict=True):
        assert (np.diff(keep) > 0).all() and (np.diff(predict) > 0).all()
        assert 0 <= min(keep[0], predict[0]) and max(keep[-1], predict[-1]) < np.prod(GRID)
        # A token counts exactly if the encoder did not see it.
        assert (weight == ~np.isin(predict, keep)).all()


def test_tube_and_random_masks_predict_exactly_what_is_hidden():
    for mask in (masking.tube(0.75), masking.random(0.8)):
        drawn = draw(mask, range(4), (2, 4, 4))
        for keep, predict in zip(drawn.keep, drawn.predict, strict=True):
            assert sorted([*keep, *predict]) == list(range(32))


def test_a_tube_hides_the_same_cells_in_every_time_slot():
    keep = draw(masking.tube(0.9), range(3)).keep.reshape(3, 8, 20)
    assert (keep - 196 * np.arange(8)[None, :, None] == keep[:, :1]).all()
    assert not (keep[0, 0] == keep[1, 0]).all()


def test_running_cell_moves_on_by_one_place_in_every_slot():
    """Slot-0 cells of the four phases, 1 = not decoded, as the reference computes them."""
    cells = {(1, 0, 0, 1), (0, 0, 1, 1), (0, 1, 1, 0), (1, 1, 0, 0)}
    seen = set()
    for predict in draw(masking.running_cell(), range(40), (4, 4, 4)).predict:
        hidden = np.ones(64, int)
        hidden[predict] = 0
        slots = hidden.reshape(4, 4, 4)
        assert (slots[:, :2, :2] == slots[:, 2:, 2:]).all()  # the cell is tiled
        assert (slots.sum(0) == 2).all()  # each place is decoded in half of the slots
        seen.add(tuple(int(v) for v in slots[0, :2, :2].reshape(-1)))
    assert seen == cells


def test_a_sample_has_the_same_mask_wherever_it_stands_in_the_batch():
    mask = masking.random(0.8)
    one, other = draw(mask, [5, 9, 2]), draw(mask, [2, 5])
    assert (one.keep[0] == other.keep[1]).all() and (one.keep[2] == other.keep[0]).all()


def test_clips_of_one_video_have_masks_of_their_own():
    clips = draw(masking.random(0.8), [5, 5], clip=np.array([0, 1], np.int32)).keep
    assert not (clips[0] == clips[1]).all()


@pytest.mark.parametrize("mask", [masking.tube(0.0), masking.tube(1.0), masking.random(0.999)])
def test_a_ratio_that_leaves_nothing_is_an_error(mask):
    with pytest.raises(UserError, match="ratio"):
        draw(mask, [0], (2, 4, 4))


def test_running_cell_wants_an_even_grid():
    with pytest.raises(UserError, match="even grid"):
        draw(masking.running_cell(), [0], (2, 3, 4))
