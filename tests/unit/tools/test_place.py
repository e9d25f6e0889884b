"""Whether a result can be written is known before it is measured, and nothing is changed by it."""

from __future__ import annotations

import pytest

from tools import place


def test_what_can_be_written_is_left_as_it_was(tmp_path):
    there, absent = tmp_path / "there.json", tmp_path / "absent.json"
    there.write_text("figures")
    place.check(there)
    place.check(absent)
    assert ("figures", False) == (there.read_text(), absent.exists())


def test_what_cannot_be_written_is_said(tmp_path):
    for path in (tmp_path, tmp_path / "no" / "such.json"):
        with pytest.raises(OSError, match=str(path)):
            place.check(path)
