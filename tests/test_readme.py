"""Every snippet and command of the README works as it stands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
COMMANDS = re.findall(r"^(python -m fastnn\..*)$", README, re.M)


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_there_are_snippets_and_commands():
    assert SNIPPETS and COMMANDS


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet(snippet, images, monkeypatch, capsys):
    """On MNIST where it is found, else on the digits."""
    monkeypatch.setattr("fastnn.datasets.load_dataset", lambda name="auto": images)
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command):
    """Shortened to one epoch of the digits by options put behind."""
    _, _, module, *options = shlex.split(command, comments=True)
    short = ["--quick"] if module == "fastnn.report" else ["--epochs", "1"]
    arguments = ["-m", module, *options, "--dataset", "digits", *short]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
