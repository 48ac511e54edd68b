"""Every snippet and command of the README works as it stands."""

import gzip
import re
import shlex
import struct
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastnn

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
COMMANDS = re.findall(r"^(python -m fastnn\..*)$", README, re.M)
STARTS = "fastnn.report"  # a process, which measures the machine's matrix product


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_there_are_snippets_and_commands():
    assert SNIPPETS and COMMANDS


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet(snippet, images, monkeypatch, capsys):
    monkeypatch.setattr("fastnn.datasets.load_dataset", lambda name="auto": images)
    exec(compile(snippet, "README.md", "exec"), {})
    assert capsys.readouterr().out


def give_files():
    """Write what the commands read."""
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    fastnn.Network([64, 10], input_scale=1 / 255).save("digits.safetensors")
    Image.fromarray(images[0]).save("digit.png")
    with gzip.open("t10k-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes())


@pytest.mark.parametrize(
    "command",
    [pytest.param(each, marks=pytest.mark.process if STARTS in each else ()) for each in COMMANDS],
)
def test_command(command, capsysbinary):
    """Those that train are shortened to one epoch of the digits, by options put behind."""
    _, _, module, *options = shlex.split(command, comments=True)
    short = {
        "fastnn.train": ["--dataset", "digits", "--epochs", "1"],
        "fastnn.report": ["--dataset", "digits", "--quick"],
        "fastnn.predict": [],
    }
    give_files()
    code = import_module(module).main([*options, *short[module]])
    assert code == 0, capsysbinary.readouterr().err
