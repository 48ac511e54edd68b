"""The README and the guide: every snippet and command runs, and every link leads somewhere."""

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
from fastnn.commands import warm

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "fastnn" / "guide"
PAGES = sorted(GUIDE.glob("*.md"))
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *PAGES)}
TEXTS = {name: path.read_text("utf-8") for name, path in DOCUMENTS.items()}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)
LANGUAGES = {"python", "sh", "dockerfile", "text"}
SLOW = "fastnn.report"  # starts a process that measures the speed of a matrix product


def fenced(language: str) -> list[tuple[str, str]]:
    """Return the blocks in a language, each after the name of its document."""
    blocks = ((name, *block) for name, text in TEXTS.items() for block in FENCE.findall(text))
    return [(name, code) for name, found, code in blocks if found == language]


SNIPPETS = fenced("python")
COMMANDS = list(
    dict.fromkeys(
        command.strip()
        for _, block in fenced("sh")
        for command in re.findall(r"python -m fastnn\.[^&\n]*", block)
    )
)


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---- snippets and commands --------------------------------------------------------------------


def test_blocks_are_in_languages_that_these_tests_know():
    for name, text in TEXTS.items():
        assert len(re.findall("^```", text, re.M)) == 2 * len(FENCE.findall(text)), name
        assert {language for language, _ in FENCE.findall(text)} <= LANGUAGES, name


@pytest.mark.parametrize("name", ["README.md", "training", "data", "estimators", "saving"])
def test_a_document_has_snippets(name):
    assert any(name in document for document, _ in SNIPPETS)


@pytest.mark.parametrize(("name", "code"), SNIPPETS)
def test_a_snippet_runs_and_prints(name, code, images, monkeypatch, capsys):
    if "onnx" in code:
        pytest.importorskip("onnx")
    monkeypatch.setattr("fastnn.data.sets.load_dataset", lambda name="auto": images)
    exec(compile(code, name, "exec"), {"__name__": "snippet"})
    assert capsys.readouterr().out


def write_input_files() -> None:
    """Write the files that the commands read."""
    digits = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    fastnn.Network([64, 10], input_scale=1 / 255).save("mnist.safetensors")
    Image.fromarray(digits[0]).save("digit.png")
    with gzip.open("t10k-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, *digits.shape) + digits.tobytes())


@pytest.mark.parametrize(
    "command",
    [pytest.param(each, marks=pytest.mark.process if SLOW in each else ()) for each in COMMANDS],
)
def test_a_command_succeeds(command, capsysbinary):
    """Run a command; training is shortened to one epoch of the digits.

    The last of repeated options is used. The network is small unless the command sets its size.
    """
    _, _, module, *options = shlex.split(command)
    appended = {
        "fastnn.train": ["--dataset", "digits", "--epochs", "1"],
        "fastnn.report": ["--dataset", "digits", "--quick"],
        "fastnn.predict": [],
    }[module]
    prepended = ["--hidden", "8"] if module == "fastnn.train" else []
    write_input_files()
    code = import_module(module).main([*prepended, *options, *appended])
    assert code == 0, capsysbinary.readouterr().err


def test_the_commands_of_a_container_are_valid():
    ((_, block),) = fenced("dockerfile")
    command, variable = block.splitlines()
    *module, directory = command.removeprefix("RUN ").split()
    assert module == ["python", "-m", "fastnn.warm"]
    assert warm.parse([directory]).directory == Path(directory)
    assert variable == f"ENV NUMBA_CACHE_DIR={directory}"


# ---- links and names --------------------------------------------------------------------------


def headings(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    found = re.findall(r"^#+ (.*)$", re.sub(FENCE, "", path.read_text("utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in found}


def links(name: str) -> list[tuple[Path, str]]:
    """Return the file and the anchor of each relative link in a document."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(FENCE, "", TEXTS[name]))
    parts = [each.partition("#") for each in targets if not each.startswith("https://")]
    return [((DOCUMENTS[name].parent / (file or DOCUMENTS[name].name)).resolve(), anchor)
            for file, _, anchor in parts]  # fmt: skip


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_and_headings(name):
    for path, anchor in links(name):
        assert path.is_file(), path
        assert not anchor or anchor in headings(path), (path.name, anchor)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_guide_links_only_to_files_of_the_package(path):
    """An installed package has no other files."""
    for target, _ in links(path.relative_to(ROOT).as_posix()):
        assert target.is_relative_to(ROOT / "fastnn"), target


@pytest.mark.parametrize("name", ["README.md", "fastnn/guide/index.md"])
def test_every_page_can_be_found(name):
    pages = {path.name for path in PAGES} - {"index.md"}
    assert pages == {path.name for path, _ in links(name) if path.parent == GUIDE}


def test_functions_are_in_the_files_that_how_it_works_names():
    text = " ".join((GUIDE / "how_it_works.md").read_text("utf-8").split())
    named = re.findall(r"((?:`\w+`(?:, | and )?)+)(?: \w+){0,2} in \[`[^`]+`\]\(([^)]+)\)", text)
    assert len(named) >= 8
    for names, file in named:
        source = (GUIDE / file).read_text("utf-8")
        for each in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^((def|class) {each}\b|{each} =|    def {each}\b)", source, re.M), (
                each
            )


def test_how_it_works_names_every_file_that_a_new_activation_changes():
    text = (GUIDE / "how_it_works.md").read_text("utf-8").partition("## A new activation")[2]
    named = {(GUIDE / file).resolve() for file in re.findall(r"\]\(([^)]+\.py)\)", text)}
    using = {
        path for path in (ROOT / "fastnn").rglob("*.py") if "leaky_relu" in path.read_text("utf-8")
    }
    others = {
        ROOT / "fastnn/reference/engine.py",  # if the derivative needs z
        ROOT / "fastnn/model/initializers.py",  # if the activation saturates
        ROOT / "fastnn/estimators/exchange.py",  # if scikit-learn lacks it
    }
    assert named == using | others


def test_scripts_and_tests_that_the_documents_name_exist():
    for text in TEXTS.values():
        for path in re.findall(r"\b((?:bench|tests)/[\w/]+\.py)", text):
            assert (ROOT / path).is_file(), path
