"""An address is read as it is written, and "any address" becomes one that others can reach."""

from __future__ import annotations

import pytest

from mesh.net import address


@pytest.mark.parametrize("text", ["127.0.0.1:7000", "[::1]:7000", "node.example:1"])
def test_what_is_split_joins_again(text):
    assert text == address.join(address.split(text))


@pytest.mark.live
def test_any_address_becomes_the_way_to_a_seed():
    assert "127.0.0.1:7000" == address.reachable("0.0.0.0:7000", ("127.0.0.1:1",))


def test_a_given_address_stays():
    assert "10.0.0.1:7000" == address.reachable("10.0.0.1:7000", ())
