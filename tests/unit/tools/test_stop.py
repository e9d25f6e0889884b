"""Ctrl-C ends a tool with one line, whatever it was doing."""

from __future__ import annotations

import pytest

from tools import stop


def test_ctrl_c_is_told_in_one_line_and_by_the_exit_code(capsys):
    def main() -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        stop.run(main, "stopped; nothing is written")
    assert 130 == ended.value.code
    assert "\nstopped; nothing is written\n" == capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 3])
def test_an_end_of_its_own_keeps_its_code(code):
    with pytest.raises(SystemExit) as ended:
        stop.run(lambda: code)
    assert code == ended.value.code
