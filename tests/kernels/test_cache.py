"""The cache of compiled kernels: its directory, permissions and damaged files."""

import errno
import os
import pickle
import py_compile
import stat
import subprocess
import sys
import time
from importlib import invalidate_caches
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace
from warnings import catch_warnings, simplefilter

import numba
import numpy as np
import pytest
from command_line import run as train
from command_line import small_arrays
from source_tree import SOURCES, own_imports

from fastnn import kernels
from fastnn.commands.session import use_engine
from fastnn.kernels.jit import cache
from fastnn.kernels.jit.compiling import Region

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="needs compiled code")


def small_region(task, job):
    task + job


posix = pytest.mark.skipif(os.name != "posix", reason="about POSIX permissions")
CUTS = 8


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_warnings", set())
    tmp_path.chmod(0o700)
    return tmp_path / "cache"


def compiled():
    region = Region(small_region)
    region.compile()
    assert region.address and region.ready
    return region


def once(compile):
    """Fail if a region is compiled a second time."""
    compiled_before = []

    def compile_once(region, cached):
        assert region not in compiled_before
        compiled_before.append(region)
        return compile(region, cached)

    return compile_once


def kernel_file():
    (path,) = cache.cache_directory().glob("*.kernel")
    return path


# ---- directory ------------------------------------------------------------------------------


def new_hash():
    return cache.source_hash.__wrapped__()


def test_directory_name_depends_on_sources_and_processor(root, monkeypatch):
    before = new_hash()
    for name in ("fastnn.kernels.regions", "fastnn.kernels.jit.simd", "fastnn.epoch"):

        def changed(loader, module, real=SourceFileLoader.get_source, name=name):
            return real(loader, module) + ("#" if module == name else "")

        monkeypatch.setattr(SourceFileLoader, "get_source", changed)
        assert new_hash() != before
        monkeypatch.undo()
    for name, value in (("CPU", "another"), ("CPU_FEATURES", frozenset())):
        monkeypatch.setattr(cache, name, value)
        assert new_hash() != before
        monkeypatch.undo()
    assert new_hash() == before


@pytest.fixture
def nested_module(tmp_path, monkeypatch):
    """Return the path of a module in a subpackage of a subpackage of `fastnn.kernels`."""
    folder = tmp_path / "kernels" / "inner" / "inner"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").touch()
    monkeypatch.setattr(kernels, "__path__", [*kernels.__path__, str(tmp_path / "kernels")])
    invalidate_caches()
    yield folder / "deep.py"
    for name in [name for name in sys.modules if name.startswith("fastnn.kernels.inner")]:
        del sys.modules[name]
    for name in [name for name in vars(kernels) if name == "inner"]:
        delattr(kernels, name)


def test_directory_name_depends_on_modules_of_subpackages(nested_module):
    hashes = {new_hash()}
    for source in ("x = 1", "x = 2"):
        nested_module.write_text(source)
        invalidate_caches()
        hashes.add(new_hash())
    assert len(hashes) == 3


def test_directory_name_depends_on_bytecode_if_there_is_no_source(nested_module, tmp_path):
    """It depends on the instructions, not on line numbers."""
    hashes = []
    function = "def f(x):\n    return x in {'a', 'b'} and (lambda: 0.0 * x)"
    for number, source in enumerate([function, "\n\n" + function, function.replace("0.0", "-0.0")]):
        (tmp_path / f"{number}.py").write_text(source)
        py_compile.compile(str(tmp_path / f"{number}.py"), str(nested_module.with_suffix(".pyc")))
        invalidate_caches()
        hashes.append(new_hash())
    assert hashes[0] == hashes[1] != hashes[2]


def test_text_of_bytecode_does_not_depend_on_the_order_of_sets():
    code = compile("x in {'a', 'b', 'c', 8, 16}", "", "eval")
    (members,) = (constant for constant in code.co_consts if isinstance(constant, frozenset))

    class Reversed(frozenset):
        def __iter__(self):
            return reversed(list(super().__iter__()))

    consts = tuple(Reversed(each) if each is members else each for each in code.co_consts)
    assert list(consts[code.co_consts.index(members)]) != list(members)
    assert cache.code_text(code.replace(co_consts=consts)) == cache.code_text(code)


# Modules that kernels import, but whose constants compiled code cannot contain.
OF_PYTHON_ALONE = {"data.conversion", "data.features", "data.rows", "data.sparse"}
OF_PYTHON_ALONE |= {"errors", "model.optimizers", "model.settings"}
OF_PYTHON_ALONE |= {f"system.{name}" for name in ("address_space", "control_groups", "files")}
OF_PYTHON_ALONE |= {"system.forks", "system.memory"}


def test_directory_name_depends_on_all_modules_with_constants():
    """A module that kernels newly import must be added to one of the two lists."""
    listed = {module.__name__.removeprefix("fastnn.") for module in cache.OTHER_MODULES}
    kernels = {name for name in SOURCES if name.partition(".")[0] == "kernels"}
    imported = set().union(*map(own_imports, kernels | listed)) - kernels
    assert imported - listed == OF_PYTHON_ALONE


@posix
@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_cache_is_private_with_any_umask(root, umask):
    before = os.umask(umask)
    try:
        compiled()
    finally:
        os.umask(before)
    directory = cache.cache_directory()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (root, directory, kernel_file())]
    assert modes == [0o700, 0o700, 0o600]
    assert compiled().from_cache


def make_directory(path, mode):
    path.mkdir(parents=True)
    path.chmod(mode)


def path_is_a_file(root):
    root.write_text("a file")


def writable_by_others(root):
    make_directory(cache.cache_directory(), 0o777)


def parent_writable_by_others(root):
    make_directory(root, 0o777)


def of_another_user(root):
    make_directory(cache.cache_directory(), 0o700)
    os.chown(cache.cache_directory(), 12345, 12345)


def parent_of_another_user(root):
    make_directory(root, 0o700)
    os.chown(root, 12345, 12345)


def is_a_link(root):
    make_directory(root.parent / "elsewhere", 0o700)
    make_directory(root, 0o700)
    cache.cache_directory().symlink_to(root.parent / "elsewhere")


FAULTS = {
    path_is_a_file: "cannot be created",
    writable_by_others: "other users can write to it",
    parent_writable_by_others: "could put a directory in its place",
    of_another_user: "belongs to another user",
    parent_of_another_user: "a directory in its place",
    is_a_link: "not a directory",
}


@posix
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_unsafe_directory_is_not_used_and_warned_of_once(root, fault):
    if "another_user" in fault.__name__ and os.getuid() != 0:
        pytest.skip("only root can give a directory away")
    fault(root)
    with pytest.warns(RuntimeWarning, match=FAULTS[fault]) as caught:
        first, second = compiled(), compiled()
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert not first.from_cache and not second.from_cache and not cache.is_cached(1)
    assert not list(root.parent.rglob("*.kernel"))


class Bomb:
    """A pickle that runs code when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@posix
def test_files_that_others_can_write_are_not_loaded(root, tmp_path):
    compiled()
    path, trace = kernel_file(), tmp_path / "trace"
    bomb = pickle.dumps(Bomb(trace))
    path.write_bytes(cache.hashlib.sha256(bomb).digest() + bomb)
    cache.cache_directory().chmod(0o770)
    with pytest.warns(RuntimeWarning, match="can write to it"):
        assert not compiled().from_cache
    cache.cache_directory().chmod(0o755)
    path.chmod(0o606)
    with pytest.warns(RuntimeWarning, match="belong to or can be written by other users"):
        assert not compiled().from_cache
    assert not trace.exists() and compiled().from_cache


@posix
def test_shared_cache_is_readable_by_others(root):
    compiled()
    cache.share(cache.cache_directory())
    modes = [path.stat().st_mode & 0o777 for path in (cache.cache_directory(), kernel_file())]
    assert modes == [0o755, 0o644]
    kernel_file().unlink()
    compiled()
    assert kernel_file().stat().st_mode & 0o777 == 0o644  # as readable as the directory
    assert compiled().from_cache


@posix
def test_directory_of_root_is_used_if_only_root_can_change_it(root, monkeypatch):
    if os.getuid() != 0:
        pytest.skip("only root has root's files")
    place = root / "a" / "b"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(place))
    compiled()
    for directory in (root, root / "a", place):
        directory.chmod(0o755)
    cache.share(cache.cache_directory())
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert cache.is_cached(1) and compiled().from_cache

    def refused(why):
        monkeypatch.setattr(cache, "_warnings", set())
        with pytest.warns(RuntimeWarning, match=why):
            return not compiled().from_cache

    for directory, mode in ((root / "a", 0o775), (root, 0o757), (place, 0o777)):
        directory.chmod(mode)
        assert refused("another user could put a directory")
        directory.chmod(0o1777 if directory == root else 0o755)  # sticky: nobody can replace
        assert compiled().from_cache
    os.chown(root / "a", 54321, -1)
    assert refused("a directory in its place")
    os.chown(root / "a", 0, -1)
    os.chown(kernel_file(), 54321, -1)
    monkeypatch.setattr(cache, "write_atomically", lambda *_: None)  # another user could not
    assert refused("belong to or can be written by")


def test_warns_if_there_is_no_home_directory(root, monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(cache, "user_cache_directory", lambda: None)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(RuntimeWarning, match="this user has no home directory") as caught:
        assert not compiled().from_cache and not compiled().from_cache
    assert not any(tmp_path.iterdir()) and len(caught) == 1


def test_new_directory_removes_old_ones(root):
    old = time.time() - (cache.MAX_UNUSED_DAYS + 1) * 86_400
    names = ["kernels-" + 16 * "a", "kernels-" + 16 * "b", "kernels-mine", "index"]
    for name in names:
        make_directory(root / name, 0o700)
        (root / name / "file").touch()
    for name in (names[0], *names[2:]):
        os.utime(root / name, (old, old))
    compiled()
    left = {path.name for path in root.iterdir()} - {cache.cache_directory().name}
    assert left == set(names[1:])


def test_reading_updates_the_time_of_the_directory(root):
    compiled()
    os.utime(cache.cache_directory(), (0, 0))
    compiled()
    assert cache.cache_directory().stat().st_mtime > time.time() - 3600


# ---- files ------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [*range(CUTS), "noise", "one bit", "zeros at the end"])
def test_damaged_file_is_replaced(root, cut):
    compiled()
    path = kernel_file()
    content = whole = path.read_bytes()
    size = len(content)
    if cut == "noise":
        content = np.random.default_rng(0).bytes(size)
    elif cut == "one bit":
        content = content[: size // 2] + bytes([content[size // 2] ^ 1]) + content[size // 2 + 1 :]
    elif cut == "zeros at the end":
        content = content[: size // 2] + bytes(size - size // 2)
    else:
        content = content[: size * cut // CUTS]
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="are damaged: they are recompiled"):
        assert not compiled().from_cache
    assert len(path.read_bytes()) >= len(whole) // 2
    assert compiled().from_cache


def test_read_only_cache_is_read(root, monkeypatch, recwarn):
    compiled()

    def read_only(path, *_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    for owner, name in (
        (cache, "write_atomically"),
        (os, "utime"),
        (Path, "mkdir"),
        (Path, "chmod"),
    ):
        monkeypatch.setattr(owner, name, read_only)
    assert cache.is_cached(1) and compiled().from_cache
    assert not recwarn


def test_full_disk_is_warned_of_once(root, monkeypatch):
    def full(path, pieces):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_atomically", full)
    monkeypatch.setattr(Region, "_compile", once(Region._compile))
    with pytest.warns(RuntimeWarning, match="cannot be cached .* No space left") as caught:
        assert not compiled().from_cache
        assert not compiled().from_cache
    assert len(caught) == 1


# ---- processes ------------------------------------------------------------------------

PROGRAM = """
import hashlib
import numpy as np
from fastnn import Network
rng = np.random.default_rng(0)
net = Network([20, 30, 3])
net.fit(rng.standard_normal((600, 20)), rng.integers(0, 3, 600), epochs=2)
bits = b"".join(w.tobytes() + b.tobytes() for w, b in net.parameters)
print(net.use_engine("numba").compiled, hashlib.sha256(bits).hexdigest())
"""


def start(root, **environment):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(root)} | environment
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def result(process, warning=""):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert (warning in err) if warning else not err
    return out.split()


@pytest.fixture(scope="module")
def expected():
    return result(start(numba.config.CACHE_DIR))[1]


def check_cold_start(root, processes, expected):
    started = [start(root) for _ in range(processes)]
    assert {result(process)[1] for process in started} == {expected}
    assert result(start(root)) == ["False", expected]
    assert all(path.suffix == ".kernel" for path in root.glob("kernels-*/*"))


@pytest.mark.long
def test_another_processor_has_its_own_directory(tmp_path, expected):
    root = tmp_path / "cache"
    old = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"}
    native, plain = ["True", "False"], []
    for want in native:
        assert result(start(root)) == [want, expected]
        plain.append(result(start(root, **old)))
    assert [compiled for compiled, _ in plain] == native and plain[0][1] == plain[1][1]
    assert len(list(root.iterdir())) == 2


@pytest.mark.parametrize(
    "round",
    [
        pytest.param(number, marks=pytest.mark.long if number else pytest.mark.process)
        for number in range(20)
    ],
)
def test_concurrent_processes_fill_the_cache(tmp_path, expected, round):
    check_cold_start(tmp_path / "cache", 8 if round else 3, expected)


@pytest.mark.long
@pytest.mark.parametrize("round", range(20))
def test_truncated_files_are_replaced(tmp_path, expected, round):
    rng, root = np.random.default_rng(round), tmp_path / "cache"
    assert result(start(root))[1] == expected
    for path in root.glob("kernels-*/*"):
        content = path.read_bytes()
        path.write_bytes(content[: rng.integers(len(content))])
    assert result(start(root), warning="are damaged")[1] == expected
    assert result(start(root)) == ["False", expected]


AUDITED = f"""
import os, sys
written = set()
def record(event, arguments):
    opens = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if opens or event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.utime"):
        written.add(os.path.realpath(arguments[0]))
sys.addaudithook(record)
{PROGRAM}
import fastnn
root = os.path.dirname(os.path.dirname(os.path.realpath(fastnn.__file__)))
print(len(written), *(path for path in written if path.startswith(root)))
"""


@pytest.mark.process
def test_nothing_is_written_to_the_installation(tmp_path):
    """Not even if kernels are compiled."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", AUDITED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    count, *in_installation = done.stdout.splitlines()[-1].split()
    assert int(count) > 0 and not in_installation


def test_command_line_prints_warnings_in_one_line(monkeypatch, capsys):
    def warn(name, threads):
        monkeypatch.setattr(cache, "_warnings", set())
        cache.warn_once("it will be slow")

    network = SimpleNamespace(use_engine=warn)
    with catch_warnings():
        simplefilter("default")
        use_engine("fastnn.train", network, "numpy", None, print)
    assert capsys.readouterr().err == "fastnn.train: it will be slow\n"


@pytest.mark.long
@posix
def test_command_line_works_without_a_cache(tmp_path, monkeypatch):
    np.savez(tmp_path / "small.npz", **small_arrays())
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/dev/null")
    done = train("--dataset", str(tmp_path / "small.npz"), "--epochs", "1", "--batch-size", "20")
    assert done.returncode == 0
    (line,) = [line for line in done.stderr.splitlines() if "compiled kernels" in line]
    assert line.startswith("fastnn.train: compiled kernels cannot be cached in /dev/null/kernels-")
