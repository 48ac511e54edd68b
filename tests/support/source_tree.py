"""The source files of the package and their imports."""

import ast
from functools import cache
from pathlib import Path

import fastnn

PACKAGE = Path(fastnn.__file__).parent


def sources() -> dict[str, Path]:
    """Return the files of all modules by their dotted names below fastnn; "" is the root."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = path
    return names


SOURCES = sources()


TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in SOURCES.items()}


def imports(tree: ast.AST) -> set[str]:
    """Return the dotted names of all modules that a syntax tree imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"not absolute: {ast.unparse(node)}"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = inner.removeprefix("fastnn.") in SOURCES
                found.add(inner if is_module else node.module)
    return found


@cache
def own_imports(module: str) -> set[str]:
    """Return the modules of fastnn that a module imports, by their names below fastnn."""
    names = {name for name in imports(TREES[module]) if name.split(".")[0] == "fastnn"}
    return {name.removeprefix("fastnn").removeprefix(".") for name in names}
