"""Every snippet and command of the README works as it stands."""

import gzip
import re
import shlex
import struct
import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastnn

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
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
    if "onnx" in snippet:
        pytest.importorskip("onnx")
    monkeypatch.setattr("fastnn.data.sets.load_dataset", lambda name="auto": images)
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
    """Those that train are shortened to one epoch of the digits, by options put behind.

    In front, for those that do not say it, is a network whose weights are few pictures.
    """
    _, _, module, *options = shlex.split(command, comments=True)
    short = {
        "fastnn.train": ["--dataset", "digits", "--epochs", "1"],
        "fastnn.report": ["--dataset", "digits", "--quick"],
        "fastnn.predict": [],
    }
    give_files()
    small = ["--hidden", "8"] if module == "fastnn.train" else []
    code = import_module(module).main([*small, *options, *short[module]])
    assert code == 0, capsysbinary.readouterr().err


def test_it_names_markers_and_extras_that_there_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    options = project["tool"]["pytest"]["ini_options"]
    markers = {each.split(":")[0] for each in options["markers"]}
    extras = set(project["project"]["optional-dependencies"])
    texts = [README, (ROOT / "bench" / "README.md").read_text("utf-8")]
    assert set(re.findall(r"pytest -m (\w+)", README)) <= markers
    for text in texts:
        assert set(re.findall(r"pip install '\.\[(\w+)\]'", text)) <= extras


def test_nothing_is_installed_by_a_name_that_nobody_has_registered():
    """A checkout is what users install: whoever registered the name could run anything."""
    for path in (ROOT / "README.md", *ROOT.glob("fastnn/**/*.py"), *ROOT.glob("bench/*")):
        if path.suffix in (".md", ".py"):
            assert not re.search(r"install\s+'?fastnn", path.read_text("utf-8")), path
