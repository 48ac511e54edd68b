"""The README: short, and true about installing, testing and repeating a run."""

import re
import tomllib
from pathlib import Path

import pytest
from command_line import MNIST
from fused import fused

from fastnn import train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "bench" / "README.md", *ROOT.glob("fastnn/guide/*.md")]


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_its_first_lines_have_two_commands_and_a_snippet():
    start = "\n".join(README.splitlines()[:30])
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", start, re.S | re.M)
    training, testing = commands.splitlines()
    assert training.endswith("pip install . && python -m fastnn.train --engine numba --plots plots")
    assert testing == "pip install '.[test]' && pytest"
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", start, re.S | re.M)
    assert snippet.startswith("from fastnn import ")
    assert len([line for line in snippet.splitlines() if line]) == 6


def test_it_names_markers_and_extras_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    options = project["tool"]["pytest"]["ini_options"]
    markers = {each.split(":")[0] for each in options["markers"]}
    extras = set(project["project"]["optional-dependencies"])
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        assert set(re.findall(r"pytest -m (\w+)", text)) <= markers, path
        assert set(re.findall(r"pip install '\.\[(\w+)\]'", text)) <= extras, path


def test_nothing_is_installed_by_a_name_that_is_not_registered():
    """Users install from a checkout: whoever registers the name could run any code."""
    for path in (*DOCUMENTS, *ROOT.glob("fastnn/**/*.py"), *ROOT.glob("bench/*.py")):
        assert not re.search(r"install\s+'?fastnn", path.read_text("utf-8")), path


@fused
@pytest.mark.parametrize("dataset", [pytest.param("MNIST", marks=pytest.mark.mnist), "digits"])
def test_the_default_run_has_the_weights_that_it_states(dataset, capfd):
    (stated,) = re.findall(rf"{dataset}.*\| `([0-9a-f]{{64}})` \|", README)
    options = ["--dataset", dataset.lower()]
    if dataset == "MNIST":
        options += ["--data-dir", str(MNIST)]
    assert train.main(options) == 0
    assert f"weights SHA-256 {stated}" in capfd.readouterr().out
