"""Without keys only this machine may end a node or change the topology; with keys, who has one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mesh.api import admin
from mesh.api.parts import PARTS
from mesh.errors import Forbidden

CASES = [
    # where from, what a proxy added, whether it may without keys
    ("127.0.0.1", {}, True),
    ("::1", {}, True),
    ("10.0.0.7", {}, False),
    (None, {}, False),
    ("127.0.0.1", {"X-Forwarded-For": "10.0.0.7"}, False),
    ("127.0.0.1", {"Forwarded": "for=10.0.0.7"}, False),
    ("::1", {"Via": "1.1 proxy"}, False),
    ("127.0.0.1", {"X-Forwarded-Proto": "https"}, False),
    ("127.0.0.1", {"CF-Connecting-IP": "10.0.0.7"}, False),
]


@pytest.mark.parametrize(("remote", "headers", "may"), CASES)
def test_only_this_machine_may_without_keys(remote, headers, may):
    """What a proxy here passes on comes from elsewhere."""

    def ask(*keys):
        settings = SimpleNamespace(security=SimpleNamespace(api_keys=keys))
        app = {PARTS: SimpleNamespace(settings=settings)}
        admin._check_may(SimpleNamespace(app=app, remote=remote, headers=headers))

    ask("key")  # the guard has asked for it
    if may:
        ask()
    else:
        with pytest.raises(Forbidden, match=r"set keys"):
            ask()
