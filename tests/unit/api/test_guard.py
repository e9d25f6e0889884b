"""A Host header is ours if it is an address, localhost, or a name of the mesh."""

from __future__ import annotations

import pytest

from mesh.api.guard import is_own_host

NAMES = {"n0", "shop.example", "127.0.0.1", "[::1]"}
HOSTS = [
    ("127.0.0.1:8000", True),
    ("192.168.7.7", True),
    ("[::1]:8000", True),
    ("[fe80::1]", True),
    ("localhost", True),
    ("localhost:8000", True),
    ("a.localhost", True),
    ("n0:8000", True),
    ("N0:8000", True),
    ("shop.example.", True),
    ("evil.example", False),
    ("shop.example.evil.example", False),
    ("n0.evil.example", False),
    ("127.0.0.1.evil.example", False),
    ("localhost.evil.example", False),
    ("", False),
    (":8000", False),
    ("n0:http", False),
    ("[::1", False),
    ("user@n0", False),
    ("n0/path", False),
]


@pytest.mark.parametrize(("host", "expected"), HOSTS)
def test_only_own_names_and_addresses_pass(host, expected):
    assert expected == is_own_host(host, NAMES)


def test_star_lets_any_name_pass():
    assert is_own_host("anything.example", {"*"})
    assert not is_own_host("", {"*"})
