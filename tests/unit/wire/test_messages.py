"""Errors travel as failures and come back as the same errors."""

from __future__ import annotations

import pytest

from mesh import errors
from mesh.wire.messages import Failure, error_from, failure_from

KINDS = [kind for kind in errors.BY_CODE.values() if kind is not errors.SetupError]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_each_error_comes_back(kind: type[errors.MeshError]) -> None:
    failure = failure_from(kind("why", retry_after_s=0.5), "n1")
    error = error_from(failure)
    assert (kind, "why", "n1", 0.5) == (type(error), error.message, error.node, error.retry_after_s)


def test_the_node_where_it_happened_is_kept() -> None:
    assert "n2" == failure_from(errors.RoleError("x", node="n2"), "n1").node


def test_errors_of_newer_nodes_are_not_retried() -> None:
    error = error_from(Failure("quota_of_the_moon", "x"))
    assert errors.Retry.NEVER is error.retry
