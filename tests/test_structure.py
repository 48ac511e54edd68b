"""The structure of the package: which module imports which, who prints, how long files are."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from source_tree import PACKAGE, SOURCES, TREES, imports, own_imports

import fastnn

ROOT = Path(__file__).parents[1]
# Who may import whom: a package, or a module beside them, and those that it stands on.
STANDS_ON = {
    "errors": "",
    "system": "errors",
    "model": "errors system",
    "data": "errors system model",
    "data.files": "errors system data",
    "data.sets": "errors system data data.files",
    "storage": "errors system model",
    "epoch": "errors system model data",
    "reference": "errors system model data epoch",
    "kernels": "errors system model data epoch",
    "engine": "errors system model data epoch reference kernels",
    "training": "errors system model data storage epoch engine",
    "network": "errors system model data storage epoch engine training",
    "estimators": "errors system model data storage epoch engine training network",
    "loading": "errors system model storage training network estimators",
    "plots": "errors system data training",
    "commands": "errors system model data data.files data.sets storage epoch engine training "
    "network estimators loading plots",
    **dict.fromkeys(("train", "report", "predict", "warm"), "commands"),
}
HEAVY = {"numba", "llvmlite", "scipy", "sklearn", "matplotlib", "rich", "requests", "joblib"}
HEAVY |= {"onnx", "skl2onnx", "PIL"}
COMMAND_LINES = {"system.terminal"}
ESTIMATORS = {
    f"estimators.{name}"
    for name in ("base", "classifier", "exchange", "regressor", "sklearn_exchange")
    + ("saving", "parameters", "fitting")
}


MODULES = [name for name in SOURCES if name]


def top(name: str) -> str:
    """Return the floor's entry for a module: a room, or the module itself."""
    return name.split(".")[0]


@cache
def tops(module: str) -> set[str]:
    """Return the packages, ours aside, that a module imports."""
    return {top(name) for name in imports(TREES[module])} - {"fastnn"}


def immediate_imports(node: ast.AST) -> set[str]:
    """Return what is imported as soon as a module is: not in functions, nor for type checkers."""
    if isinstance(node, ast.FunctionDef):
        return set()
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return set()
    found = imports(node) if isinstance(node, ast.Import | ast.ImportFrom) else set()
    return found.union(*map(immediate_imports, ast.iter_child_nodes(node)))


# ---- imports --------------------------------------------------------------------------------


def place(module: str) -> str:
    """Return the package that a module is in, or the module beside them."""
    inner = ".".join(module.split(".")[:2])
    return inner if inner in STANDS_ON else top(module)


def test_imports_point_down():
    assert {place(module) for module in MODULES} == set(STANDS_ON)
    # The root, whose version anyone may ask for, has no place.
    arrows = [(module, name) for module in MODULES for name in own_imports(module) - {""}]
    allowed = {each: {each, *below.split()} for each, below in STANDS_ON.items()}
    assert [(m, name) for m, name in arrows if place(name) not in allowed[place(m)]] == []


def test_the_places_stand_on_each_other_in_few_levels():
    levels: dict[str, int] = {}
    used = {each: {place(n) for m in MODULES if place(m) == each for n in own_imports(m) - {""}}
            for each in STANDS_ON}  # fmt: skip
    graph = {each: below - {each} for each, below in used.items()}
    for each in TopologicalSorter(graph).static_order():
        levels[each] = 1 + max((levels[below] for below in graph[each]), default=0)
    assert max(levels.values()) <= 12, levels


def test_the_root_gives_nothing_but_the_version_to_modules():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "fastnn" and name:
                asked = {alias.name for alias in node.names} - set(SOURCES)
                assert asked <= {"__version__"}, name


def test_no_imports_go_in_circles():
    graph = {name: own_imports(name) - {""} for name in SOURCES if name}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_only_engine_knows_both_rooms():
    for name in SOURCES:
        rooms = {top(imported) for imported in own_imports(name)} & {"reference", "kernels"}
        assert rooms == ({"reference", "kernels"} if name == "engine" else rooms & {top(name)}), (
            name
        )


def test_the_reference_needs_nothing_but_numpy():
    for name in SOURCES:
        if top(name) == "reference":
            assert tops(name) - sys.stdlib_module_names <= {"numpy"}, name


def test_a_library_is_known_in_its_place_only():
    places = {
        "llvmlite": {"kernels.jit.simd", "kernels.gemm.tile", "kernels.jit.philox"},
        "numba": {name for name in SOURCES if top(name) == "kernels"},
        "matplotlib": {"plots.curves", "plots.images", "plots.window"},
        "PIL": {"data.files.pictures"},
        "requests": {"data.sets.download"},
        "safetensors": {"storage.tensor_file"},
        "onnx": {"storage.onnx_export", "estimators.onnx_converters"},
        "skl2onnx": {"estimators.onnx_converters"},
        "scipy": {"training.lbfgs", "estimators.base", "estimators.fitting"},
        "sklearn": {"data.sets.sets", "data.splitting", "training.scale"} | ESTIMATORS,
    }
    users = {library: {n for n in SOURCES if library in tops(n)} for library in places}
    strangers = {library: users[library] - places[library] for library in places}
    assert {library: names for library, names in strangers.items() if names} == {}
    assert [library for library in places if not users[library]] == [], "nobody uses it any more"


def test_heavy_libraries_are_imported_when_they_are_needed():
    exempt = {"kernels", "estimators"}  # whose bases need them
    at_once = {
        name: {top(each) for each in immediate_imports(TREES[name])} & HEAVY
        for name in MODULES
        if top(name) not in exempt
    }
    assert {name: found for name, found in at_once.items() if found} == {}


def test_only_the_window_uses_pyplot():
    """It needs a display and has global state; `--show` needs its toolkits and event loops."""
    users = {name for name, path in SOURCES.items() if "pyplot" in path.read_text("utf-8")}
    assert {name for name in users if "import pyplot" in SOURCES[name].read_text("utf-8")} == {
        "plots.window"
    }
    for name in SOURCES:
        assert "matplotlib.pyplot" not in imports(TREES[name]), name


# ---- the JIT, the twins, the prints ---------------------------------------------------------


def test_every_jitted_function_goes_through_jit():
    compilers = {"jit", "njit", "cfunc", "vectorize", "guvectorize", "stencil", "jitclass"}
    for name, tree in TREES.items():
        if name == "kernels.jit.compiling":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and top(node.module or "") == "numba":
                assert not {alias.name for alias in node.names} & compilers, name
            if isinstance(node, ast.Attribute) and node.attr in compilers:
                assert not ast.unparse(node).startswith(("numba.", "nb.")), name


def public_functions(module: str) -> set[str]:
    found = (n.name for n in TREES[module].body if isinstance(n, ast.FunctionDef))
    return {name for name in found if not name.startswith("_")}


def test_the_reference_has_a_kernel_for_each_of_its_functions():
    kernels = {name.rpartition(".")[2]: name for name in SOURCES if name.startswith("kernels.")
               and not name.startswith("kernels.layers.sparse")}  # fmt: skip
    for name in SOURCES:
        if name.startswith("reference."):
            file = name.partition(".")[2]
            assert file in kernels, name
            assert public_functions(name) <= public_functions(kernels[file]), name


def test_only_command_lines_print():
    for name, tree in TREES.items():
        calls = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
        prints = any(isinstance(func, ast.Name) and func.id == "print" for func in calls)
        assert not prints or name in COMMAND_LINES | ESTIMATORS


# ---- size and text --------------------------------------------------------------------------


def lines_of(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_files_and_functions_are_short():
    files = {name: len(SOURCES[name].read_text("utf-8").splitlines()) for name in MODULES}
    assert {name: lines for name, lines in files.items() if lines > 400} == {}
    functions = {
        f"{name}: {node.name}": lines_of(node)
        for name in MODULES
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: lines for name, lines in functions.items() if lines > 70} == {}


def test_no_text_names_a_place_on_some_machine():
    places = re.compile(r"(?<![\w.\-])/(work|opt|home|root|Users)/\w")
    texts = [ROOT / name for name in ("pyproject.toml", "README.md", "CHANGELOG.md", ".ci/run")]
    for folder in ("fastnn", "tests", "bench"):
        texts += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md", ".toml")]
    for path in texts:
        if path.exists():
            found = places.search(path.read_text("utf-8"))
            assert found is None, f"{path.relative_to(ROOT)}: {found.group()}"


# ---- the package as it is imported ----------------------------------------------------------


def run(code: str) -> str:
    """Run code in a fresh interpreter, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-P", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.process
def test_importing_fastnn_imports_next_to_nothing():
    code = f"import sys, fastnn; print({HEAVY | {'numpy'}} & sys.modules.keys())"
    assert run(code) == "set()"


@pytest.mark.process
def test_the_front_door_does_not_wait_for_the_heavy_libraries():
    code = f"""
import sys
from fastnn import DataError, EarlyStopping, Network, ProgressBar, load_dataset
net = Network([2, 2])
net.fit([[0, 1], [1, 0]], [0, 1], epochs=1, engine="numpy")
print({HEAVY} & sys.modules.keys())
"""
    assert run(code) == "set()"


def test_public_names_resolve_and_are_listed():
    for name in fastnn.__all__:
        assert getattr(fastnn, name) is not None
        assert name in dir(fastnn)
    expected = {"Network", "load_dataset", "DataError", "DivergenceError", "__version__"}
    expected |= {"MLPClassifier", "MLPRegressor", "EarlyStopping", "Schedule"}
    assert expected <= set(fastnn.__all__)
    for name, home in fastnn._HOME.items():
        assert getattr(fastnn, name) is getattr(import_module(home), name)


def test_other_names_are_unknown():
    with pytest.raises(AttributeError, match="^module 'fastnn' has no attribute 'Netwrok'$"):
        fastnn.Netwrok  # noqa: B018


@pytest.mark.process
def test_the_reference_engine_needs_no_numba():
    code = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import fastnn.reference.engine
from fastnn import Network

net = Network([3, 4, 2])
x, labels = [[0, 1, 2], [2, 1, 0]] * 4, [0, 1] * 4
history = net.fit(x, labels, epochs=60, engine="numpy", batch_size=3)
assert history["loss"][-1] < history["loss"][0], history["loss"]
assert net.predict(x).tolist() == labels
before = net.parameters
try:
    net.fit(x, labels, engine="numba")
except ModuleNotFoundError as error:
    print(error)
assert net.epochs_trained == 60
assert all((w == v).all() for (w, _), (v, _) in zip(net.parameters, before))
net.fit(x, labels, epochs=1, engine="numpy")
"""
    assert run(code) == "No module named 'numba'"
