"""The structure of the code: allowed imports, printing, and sizes of files and functions."""

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
# Packages, and modules outside of packages, with those that they may import.
ALLOWED_IMPORTS = {
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
MAY_PRINT = {"system.terminal"}
ESTIMATORS = {
    f"estimators.{name}"
    for name in ("base", "classifier", "exchange", "regressor", "sklearn_exchange")
    + ("saving", "parameters", "fitting")
}


MODULES = [name for name in SOURCES if name]


def top(name: str) -> str:
    """Return the first part of a dotted name."""
    return name.split(".")[0]


@cache
def libraries(module: str) -> set[str]:
    """Return the libraries that a module imports, apart from fastnn."""
    return {top(name) for name in imports(TREES[module])} - {"fastnn"}


def immediate_imports(node: ast.AST) -> set[str]:
    """Return the imports outside of functions that are not for type checkers only."""
    if isinstance(node, ast.FunctionDef):
        return set()
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return set()
    found = imports(node) if isinstance(node, ast.Import | ast.ImportFrom) else set()
    return found.union(*map(immediate_imports, ast.iter_child_nodes(node)))


# ---- imports --------------------------------------------------------------------------------


def package(module: str) -> str:
    """Return the package of a module, or the name of a module outside of packages."""
    inner = ".".join(module.split(".")[:2])
    return inner if inner in ALLOWED_IMPORTS else top(module)


def test_packages_import_only_allowed_packages():
    assert {package(module) for module in MODULES} == set(ALLOWED_IMPORTS)
    # Every module may import the version from the root.
    pairs = [(module, name) for module in MODULES for name in own_imports(module) - {""}]
    allowed = {each: {each, *below.split()} for each, below in ALLOWED_IMPORTS.items()}
    assert [(m, name) for m, name in pairs if package(name) not in allowed[package(m)]] == []


def test_packages_have_at_most_12_levels():
    graph: dict[str, set[str]] = {each: set() for each in ALLOWED_IMPORTS}
    for module in MODULES:
        graph[package(module)] |= {package(name) for name in own_imports(module) - {""}}
    levels: dict[str, int] = {}
    graph = {each: below - {each} for each, below in graph.items()}
    for each in TopologicalSorter(graph).static_order():
        levels[each] = 1 + max((levels[below] for below in graph[each]), default=0)
    assert max(levels.values()) <= 12, levels


def test_modules_import_only_the_version_from_the_root():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "fastnn" and name:
                imported = {alias.name for alias in node.names} - set(SOURCES)
                assert imported <= {"__version__"}, name


def test_imports_have_no_cycles():
    graph = {name: own_imports(name) - {""} for name in SOURCES if name}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_only_engine_imports_both_engines():
    engines = {"reference", "kernels"}
    for name in SOURCES:
        imported = {top(each) for each in own_imports(name)} & engines
        assert imported == (engines if name == "engine" else imported & {top(name)}), name


def test_reference_imports_no_library_but_numpy():
    for name in SOURCES:
        if top(name) == "reference":
            assert libraries(name) - sys.stdlib_module_names <= {"numpy"}, name


def test_libraries_are_imported_only_in_their_modules():
    allowed = {
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
    users = {library: {n for n in SOURCES if library in libraries(n)} for library in allowed}
    others = {library: users[library] - allowed[library] for library in allowed}
    assert {library: names for library, names in others.items() if names} == {}
    assert [library for library in allowed if not users[library]] == [], "no longer used"


def test_heavy_libraries_are_imported_lazily():
    exempt = {"kernels", "estimators"}  # they need Numba and scikit-learn
    immediate = {
        name: {top(each) for each in immediate_imports(TREES[name])} & HEAVY
        for name in MODULES
        if top(name) not in exempt
    }
    assert {name: found for name, found in immediate.items() if found} == {}


def test_only_the_window_imports_pyplot():
    """Pyplot has global state and may need a display; the window needs its event loops."""
    texts = {name: path.read_text("utf-8") for name, path in SOURCES.items()}
    users = {name for name, text in texts.items() if "import pyplot" in text}
    users |= {name for name in SOURCES if "matplotlib.pyplot" in imports(TREES[name])}
    assert users == {"plots.window"}


# ---- compiled functions, reference functions, printing --------------------------------------


def test_only_the_module_compiling_uses_the_decorators_of_numba():
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
    """Return the public functions of a module, without methods."""
    found = (n.name for n in TREES[module].body if isinstance(n, ast.FunctionDef))
    return {name for name in found if not name.startswith("_")}


def test_every_reference_function_has_a_kernel():
    kernels = {name.rpartition(".")[2]: name for name in SOURCES if name.startswith("kernels.")
               and not name.startswith("kernels.layers.sparse")}  # fmt: skip
    for name in SOURCES:
        if name.startswith("reference."):
            file = name.partition(".")[2]
            assert file in kernels, name
            assert public_functions(name) <= public_functions(kernels[file]), name


def test_only_command_lines_and_estimators_print():
    for name, tree in TREES.items():
        calls = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
        prints = any(isinstance(func, ast.Name) and func.id == "print" for func in calls)
        assert not prints or name in MAY_PRINT | ESTIMATORS, name


# ---- sizes and texts ------------------------------------------------------------------------


def body_lines(function: ast.FunctionDef) -> int:
    """Return the number of lines of a function's body, without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_files_and_functions_are_short():
    files = {name: len(SOURCES[name].read_text("utf-8").splitlines()) for name in MODULES}
    assert {name: lines for name, lines in files.items() if lines > 400} == {}
    functions = {
        f"{name}: {node.name}": body_lines(node)
        for name in MODULES
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: lines for name, lines in functions.items() if lines > 70} == {}


def test_no_text_has_a_path_of_a_machine():
    paths = re.compile(r"(?<![\w.\-])/(work|opt|home|root|Users)/\w")
    texts = [ROOT / name for name in ("pyproject.toml", "README.md", "CHANGELOG.md", ".ci/run")]
    for folder in ("fastnn", "tests", "bench"):
        texts += [p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".md", ".toml")]
    for path in texts:
        if path.exists():
            found = paths.search(path.read_text("utf-8"))
            assert found is None, f"{path.relative_to(ROOT)}: {found.group()}"


# ---- imports at run time --------------------------------------------------------------------


def run(code: str) -> str:
    """Run code in a new interpreter; return its output."""
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
def test_importing_fastnn_imports_no_library():
    code = f"import sys, fastnn; print({HEAVY | {'numpy'}} & sys.modules.keys())"
    assert run(code) == "set()"


@pytest.mark.process
def test_fit_with_the_reference_engine_imports_no_heavy_library():
    code = f"""
import sys
from fastnn import DataError, EarlyStopping, Network, ProgressBar, load_dataset
net = Network([2, 2])
net.fit([[0, 1], [1, 0]], [0, 1], epochs=1, engine="numpy")
print({HEAVY} & sys.modules.keys())
"""
    assert run(code) == "set()"


def test_public_names_exist_and_are_listed():
    for name in fastnn.__all__:
        assert getattr(fastnn, name) is not None
        assert name in dir(fastnn)
    expected = {"Network", "load_dataset", "DataError", "DivergenceError", "__version__"}
    expected |= {"MLPClassifier", "MLPRegressor", "EarlyStopping", "Schedule"}
    assert expected <= set(fastnn.__all__)
    for name, module in fastnn._MODULES.items():
        assert getattr(fastnn, name) is getattr(import_module(module), name)


def test_unknown_name_raises_an_attribute_error():
    with pytest.raises(AttributeError, match="^module 'fastnn' has no attribute 'Netwrok'$"):
        fastnn.Netwrok  # noqa: B018


@pytest.mark.process
def test_reference_engine_works_without_numba():
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
