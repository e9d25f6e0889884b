"""Transcripts tell what happens; `python -m tests.sim.transcript --rewrite` renews them."""

from __future__ import annotations

import pytest

from tests.sim.transcript import FOLDER, retell

PATHS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_transcript_still_tells_the_truth(path):
    told = path.read_text()
    assert told.splitlines() == retell(told).splitlines()


def test_an_unknown_command_is_refused():
    with pytest.raises(ValueError, match="no such command: 'explode c'"):
        retell("explode c")
