"""`fastnn.commands.console`: the output to a terminal, and the log."""

import os
import re
import subprocess
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from command_line import PATIENCE, arguments, command, events, posix, read_all

from fastnn.commands.console import Log


def test_log_replaces_nan_by_null(tmp_path: Path) -> None:
    data: Any = None
    log = Log(Namespace(log_json=tmp_path / "log"), data)
    with log.recording():
        log.write("epoch", loss=float("nan"), accuracy=0.5, name="é")
    assert events(tmp_path / "log") == [
        {"event": "epoch", "loss": None, "accuracy": 0.5, "name": "é"}
    ]


@posix
@pytest.mark.parametrize("colour", [True, False], ids=["colour", "NO_COLOR"])
@pytest.mark.process
def test_terminal_shows_rows_and_a_progress_bar(
    colour: bool, terminal: tuple[int, int], folder: Path
) -> None:
    ours, theirs = terminal
    columns = os.get_terminal_size(theirs).columns
    names = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    environment |= {"TERM": "xterm-256color"} | ({} if colour else {"NO_COLOR": "1"})
    process = subprocess.Popen(
        command(*arguments()), stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    output = read_all(ours)
    assert process.wait(timeout=PATIENCE) == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).replace("\r", "\n")
    rows = re.findall(r"^ +(\d)(?: +\S+){6}$", plain, re.MULTILINE)
    assert rows == ["1", "2", "3"]
    assert "epoch 1/3" in output or columns < 40  # too narrow for all columns of the bar
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1  # the cursor is shown again
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-8]", output)) == (colour and "━" in output)
    assert re.search(r"test accuracy [\d.]+%, test loss \S+, after 3 epochs\n", plain)
