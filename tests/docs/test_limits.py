"""Every limit and fault has an error or a reason for silence, something that counts it, a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mesh import errors
from tools import catalogue, reference

PROJECT = Path(__file__).resolve().parents[2]
LIMITS, FAULTS, NOT_LIMITS = catalogue.limits(), catalogue.faults(), catalogue.not_limits()
KNOWN = {(row.file, row.name) for row in LIMITS} | set(NOT_LIMITS)
METRICS = {name for name, _, _ in reference.metrics()}
SOURCES = {path: path.read_text() for path in sorted((PROJECT / "mesh").rglob("*.py"))}


def name_of(row: catalogue.Limit) -> str:
    return f"{row.file}:{row.name}"


def test_every_setting_that_is_a_number_is_listed():
    """So that a key that bounds something cannot be added without an error and a metric."""
    missing = [
        f"{file}:{name}"
        for file in catalogue.SETTINGS
        for name, number in catalogue.numbers(file).items()
        if "." in name and number.value is not None and (file, name) not in KNOWN
    ]
    assert [] == missing


def test_nothing_is_listed_that_is_not_there_or_twice():
    gone = [(file, name) for file, name in KNOWN if name not in catalogue.numbers(file)]
    assert [] == gone
    assert len(KNOWN) == len(LIMITS) + len(NOT_LIMITS)


@pytest.mark.parametrize("row", LIMITS, ids=name_of)
def test_a_limit_says_all_of_itself(row):
    """Who is told, or why nobody; what counts it, where somebody is; why; and its test."""
    assert row.does
    assert row.why or catalogue.numbers(row.file)[row.name].why
    assert row.error or row.silent
    assert catalogue.counted(row) or row.silent
    check_error(row.error)
    check_metric(row.metric)
    path, _, function = row.test.partition("::")
    assert re.search(rf"def {function}\(", (PROJECT / path).read_text()), row.test


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_says_all_of_itself(fault):
    assert fault.then
    check_error(fault.error)
    check_metric(fault.metric)
    if fault.seen.startswith("chaos: "):
        for scene in fault.seen.removeprefix("chaos: ").split(" · "):
            assert f'"{scene}"' in scenes(), scene
    else:
        assert (PROJECT / fault.seen).exists()


def test_every_error_is_told_by_a_limit_or_a_fault():
    """A base class is told by what is below it."""
    told = [getattr(errors, row.error) for row in (*LIMITS, *FAULTS) if row.error]
    untold = {
        kind.__name__
        for kind in errors.BY_CODE.values()
        if not any(issubclass(one, kind) for one in told)
    }
    assert set() == untold


def check_error(name: str) -> None:
    assert not name or issubclass(getattr(errors, name), errors.MeshError)


def check_metric(name: str) -> None:
    """A whole metric is declared; a limit's name ends in what some part counts under that name."""
    if name.startswith("mesh_"):
        assert name in METRICS, name
    elif name:
        part, _, word = name.partition(".")
        assert part in ("door", "route", "once", "gossip", "peer", "role")
        assert any(re.search(rf"[\"'.]{word}\b", text) for text in SOURCES.values()), name


def scenes() -> str:
    return "".join(
        (PROJECT / "tools" / "chaos" / f).read_text() for f in ("faults.py", "strain.py")
    )
