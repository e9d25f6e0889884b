"""The tensor role: padding, bad items among good ones, and parts that make the whole."""

import json

import numpy as np
import pytest

from mesh.errors import SetupError, Unprocessable
from mesh.models import tensor
from mesh.roles.base import Context
from mesh.roles.tensor import Tensor


def role(**options: int) -> Tensor:
    made = Tensor(Context("tensor", options=options))
    made.load()
    return made


@pytest.fixture(scope="module")
def whole() -> Tensor:
    return role()


def test_lists_arrays_and_shapes_answer_alike(whole):
    """Only the first 1024 numbers count, however they come."""
    image = np.random.default_rng(1).random((1, 224, 224, 3), dtype=np.float32)
    flat = image.ravel()
    batch = [image, flat, flat.tolist(), flat[: tensor.WIDTH].tolist()]
    answers = whole.run([{"input_data": data} for data in batch])
    for answer in answers[1:]:
        assert np.array_equal(answers[0]["output_data"], answer["output_data"])


def test_short_inputs_are_padded_with_zeros(whole):
    """Three numbers are three numbers and 1021 zeros."""
    short, padded = whole.run(
        [{"input_data": [1, 2.5, -3]}, {"input_data": [1, 2.5, -3] + [0] * 1021}]
    )
    assert np.array_equal(short["output_data"], padded["output_data"])


@pytest.mark.parametrize(
    "bad", [["a"], [[1.0, 2.0]], [float("nan")], [float("inf")], None, "text", {"a": 1}, [[1], 2]]
)
def test_a_bad_item_fails_alone(whole, bad):
    """Its neighbours answer as if it were not there."""
    good = {"input_data": [1.0, 2.0]}
    first, failed, last = whole.run([good, {"input_data": bad}, good])
    assert isinstance(failed, Unprocessable)
    assert np.array_equal(whole.run([good])[0]["output_data"], first["output_data"])
    assert np.array_equal(first["output_data"], last["output_data"])


def test_only_bad_items_answer_their_errors(whole):
    """An empty product is never tried."""
    assert all(
        isinstance(answer, Unprocessable)
        for answer in whole.run([{"input_data": None}, {"input_data": "x"}])
    )


def test_parts_together_answer_like_the_whole(whole):
    """Each part sees all values and gives its own columns, layer by layer."""
    data = np.random.default_rng(2).standard_normal(tensor.WIDTH)
    parts = [role(part=i, parts=2) for i in range(2)]
    x = data
    for _ in range(tensor.LAYERS):
        x = np.concatenate([part.run([{"input_data": x}])[0]["output_data"] for part in parts])
    expected = whole.run([{"input_data": data}])[0]["output_data"]
    assert np.array_equal(expected, tensor.leave(x[None])[0])


def test_a_part_holds_only_its_columns(whole):
    """Half the columns are half the memory."""
    half = role(part=1, parts=2)
    assert whole.statistics()["weights_bytes"] == 2 * half.statistics()["weights_bytes"]


def test_a_part_beyond_the_parts_is_refused():
    """Before serving, with what was expected."""
    with pytest.raises(SetupError, match="part < parts"):
        Tensor(Context("tensor", options={"part": 2, "parts": 2}))


def test_bodies_are_read_as_their_values_would_be(whole):
    """JSON and bytes that a door passed on unread answer like the numbers in them."""
    numbers = np.random.default_rng(2).random(1200, dtype=np.float32)
    asked = json.dumps({"request_id": "r", "input_data": numbers.tolist(), "input_shape": [3, 400]})
    plain, of_json, of_bytes = whole.run(
        [
            {"input_data": numbers},
            {"body": asked.encode(), "form": "json"},
            {"body": numbers.tobytes(), "form": "float32", "input_shape": [1200]},
        ]
    )
    assert of_json["request_id"] == "r"
    assert np.array_equal(plain["output_data"], of_json["output_data"])
    assert np.array_equal(plain["output_data"], of_bytes["output_data"])


@pytest.mark.parametrize(
    "bad",
    [
        {"body": b"{", "form": "json"},
        {"body": b'{"input_data": [1, null]}', "form": "json"},
        {"body": b'{"input_data": [1], "input_shape": [2]}', "form": "json"},
        {"body": b"[" * 100_000, "form": "json"},
        {"body": b"abc", "form": "float32"},
        {"body": b"abcd", "form": "float32", "input_shape": [2]},
        {"input_data": [1.0], "input_shape": [-1]},
        {},
    ],
)
def test_a_bad_body_fails_alone(whole, bad):
    """What a door did not read is no danger to the others of its batch."""
    good = {"input_data": [1.0, 2.0]}
    first, failed, last = whole.run([good, bad, good])
    assert isinstance(failed, Unprocessable)
    assert np.array_equal(first["output_data"], last["output_data"])
