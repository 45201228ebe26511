"""envs.frames: the mean of areas."""

from __future__ import annotations

import numpy as np
import pytest

from envs.frames import small


@pytest.mark.parametrize("side", [(64, 64), (128, 192), (84, 84), (48, 80), (1, 1), (480, 640)])
def test_a_pixel_is_the_mean_of_the_area_that_it_covers(side: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*side, 3), np.uint8)
    found = small(frame)
    # every source pixel split into 64 x 64 parts makes whole blocks, of one row of the picture at a time
    tall = np.repeat(frame[:, :, 0].astype(np.int64), 64, axis=1).reshape(side[0], 64, side[1]).sum(2)
    sums = np.stack([np.repeat(tall[:, column], 64).reshape(64, side[0]).sum(1) for column in range(64)], 1)
    expected = np.floor(sums / (side[0] * side[1]) + 0.5)
    assert found.shape == (64, 64, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[:, :, 0], expected)


def test_known_blocks_and_bounds() -> None:
    frame = np.zeros((128, 128, 3), np.uint8)
    frame[::2, ::2] = 255
    frame[:2, :2, 1] = [[1, 2], [3, 4]]
    found = small(frame)
    assert found[0, 0].tolist() == [64, 3, 64] and (found[1:, 1:] == 64).all()
    assert (small(np.full((97, 33, 3), 255, np.uint8)) == 255).all()


@pytest.mark.parametrize("bad", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), None])
def test_other_arrays_are_refused(bad: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="expected uint8|pixels on a side"):
        small(np.zeros((70_000, 1, 3), np.uint8) if bad is None else bad)
