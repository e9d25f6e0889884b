"""The tensor engine is exact: batches, splits and workers agree to the last bit."""

import itertools

import numpy as np
import pytest

from mesh.models import tensor


@pytest.fixture(scope="module")
def layers() -> tensor.Layers:
    return tensor.Layers()


def inputs(count: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, tensor.WIDTH)) * scale


def plain(row: np.ndarray) -> np.ndarray:
    """Follow the contract to the letter, in float32, one row at a time."""
    w, x = tensor.weights(), row.astype(np.float32)
    for _ in range(tensor.LAYERS):
        x = np.tanh(x @ w)
    size = np.abs(x[: tensor.OUTPUTS])
    return size / size.sum()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 255.0])
def test_a_batch_answers_like_each_of_its_rows_alone(layers, scale):
    """Bit by bit, whatever the size of the batch and the place in it."""
    rows = inputs(13, scale)
    alone = np.concatenate([tensor.forward(layers, row[None]) for row in rows])
    for size in (2, 5, 8, 13):
        assert np.array_equal(alone[:size], tensor.forward(layers, rows[:size]))
    assert np.array_equal(alone[::-1], tensor.forward(layers, rows[::-1]))


@pytest.mark.parametrize("parts", [2, 3])
def test_columns_apart_are_the_columns_of_the_whole(layers, parts):
    """Bit by bit, after each layer and at the end."""
    split = [tensor.Layers(columns=tensor.columns_of(i, parts)) for i in range(parts)]
    rows = inputs(4)
    x, scale = tensor.enter(rows)
    for _ in range(tensor.LAYERS):
        x = np.concatenate([part.step(x, scale) for part in split], axis=1)
        scale = np.ones_like(scale)
    assert np.array_equal(tensor.forward(layers, rows), tensor.leave(x))


def test_the_answer_is_the_contracts(layers):
    """Within what float32 itself leaves open: its own kernels differ by as much."""
    row = inputs(1, 0.1)[0]
    answer = tensor.forward(layers, row[None])[0]
    assert answer.shape == (tensor.OUTPUTS,)
    assert np.float32 == answer.dtype
    np.testing.assert_allclose(answer, plain(row), atol=2e-5)
    assert np.isclose(1.0, answer.sum(), atol=1e-5)


def test_weights_are_the_known_ones():
    """The first numbers of `numpy.random.seed(42); randn`."""
    assert np.allclose([0.49671414, -0.13826430, 0.64768857], tensor.weights()[0, :3])
    assert not np.array_equal(tensor.weights(1), tensor.weights(0))


def test_columns_cover_the_width_once():
    """Every column has one part."""
    for parts in (1, 2, 3, 7, tensor.WIDTH):
        covered = [tensor.columns_of(i, parts) for i in range(parts)]
        assert covered[0].start == 0
        assert covered[-1].stop == tensor.WIDTH
        assert all(a.stop == b.start for a, b in itertools.pairwise(covered))


def test_zeros_stay_zeros(layers):
    """An empty image divides by nothing."""
    answer = tensor.forward(layers, np.zeros((2, tensor.WIDTH)))
    assert not answer.any()


def test_what_is_on_the_grid_enters_unchanged():
    """So a part may take either the inputs or the values between two layers."""
    x = np.array([[1.0, -0.5, 2.0**-24, 0.0], [0.25, 2.0**-24, 0.0, 0.0]])
    entered, scale = tensor.enter(x)
    assert np.array_equal(entered * scale, x)


@pytest.mark.parametrize("size", [5e-324, 1e-30, 1e300])
def test_any_finite_size_is_taken(layers, size):
    """Neither overflow nor a division by zero."""
    answer = tensor.forward(layers, inputs(1, size / 10))
    assert np.isfinite(answer).all()
