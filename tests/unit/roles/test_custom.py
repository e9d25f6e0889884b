"""A kind names a class, and one that does not says what is wrong with it."""

from __future__ import annotations

import pytest

from mesh.errors import SetupError
from mesh.roles import custom
from mesh.roles.base import Role, StreamRole


class Mine(Role):
    """A user's role."""

    options = {"size": 3}  # noqa: RUF012
    idempotent = False


NOT_A_ROLE = 5


def test_a_users_class_is_found_by_its_path():
    assert custom.find(f"{__name__}:Mine") is Mine


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("embeed", "expected one of classify, .* found 'embeed'; did you mean 'embed'"),
        ("zzz", "or 'package.module:Class', found 'zzz'"),
        ("nowhere:X", "there is no module 'nowhere'"),
        ("mesh.nowhere:X", "there is no module 'mesh.nowhere'"),
        (f"{__name__}:Other", "has no class 'Other'"),
        (f"{__name__}:NOT_A_ROLE", "is no subclass of mesh.roles.base.Role"),
        ("antigravity_:", "expected one of"),
    ],
)
def test_a_kind_that_is_none_is_explained(kind, words):
    with pytest.raises(SetupError, match=words):
        custom.find(kind)


def test_a_module_that_breaks_at_import_is_a_fault_of_the_set_up(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("1 / 0")
    (tmp_path / "needy_module.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SetupError, match="cannot be imported: ZeroDivisionError"):
        custom.find("broken_module:X")
    with pytest.raises(SetupError, match="needs module 'not_installed_anywhere'"):
        custom.find("needy_module:X")


def test_options_are_completed_and_unknown_ones_refused():
    assert custom.options("r", Mine, {}) == {"size": 3}
    assert custom.options("r", Mine, {"size": 4}) == {"size": 4}
    with pytest.raises(SetupError, match="unknown key 'siz'; Mine knows size; did you mean 'size'"):
        custom.options("r", Mine, {"siz": 4})


def test_idempotence_is_the_classs_word():
    assert not custom.is_idempotent(f"{__name__}:Mine")
    assert not custom.is_idempotent("nowhere:X")
    assert custom.is_idempotent("embed")


def test_what_streams_is_known():
    assert not custom.is_streaming(f"{__name__}:Mine")
    assert not custom.is_streaming("nowhere:X")
    assert custom.is_streaming("generate")


@pytest.mark.slow
@pytest.mark.parametrize("kind", custom.BUILT_IN)
def test_built_in_kinds_are_there_and_idempotent(kind):
    assert custom.find(kind).idempotent is custom.is_idempotent(kind)
    assert issubclass(custom.find(kind), StreamRole) is custom.is_streaming(kind)
