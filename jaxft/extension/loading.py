"""Plug-ins: files, modules and installed packages whose code adds names to tables of jaxft (`jaxft.extension.table`).

A plug-in is loaded once in a process, and what it adds is taken back if it breaks on the way. Its digest is that of the
code which was run, so that other processes and later starts can be held to the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import pathlib
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator

from jaxft.errors import RecipeError

ENTRY_POINTS = "jaxft.plugins"


@dataclasses.dataclass(frozen=True)
class Plugin:
    """Code from outside.

    Attributes:
      name: what messages and digests call it, the same on every machine: name of a file or of a module.
      reference: where it is: absolute path of a file, or name of a module.
      digest: SHA-256 (hexadecimal) of its code.
    """

    name: str
    reference: str
    digest: str


@dataclasses.dataclass
class _State:
    """What this process has loaded.

    Attributes:
      loaded: by reference.
      loading: plug-ins that are being loaded, the innermost last.
      undo: what takes back the names that the innermost has added.
      installed: whether those of installed packages are loaded.
    """

    loaded: dict[str, Plugin] = dataclasses.field(default_factory=dict)
    loading: list[Plugin] = dataclasses.field(default_factory=list)
    undo: list[Callable[[], object]] = dataclasses.field(default_factory=list)
    installed: bool = False


_state = _State()


def loaded() -> tuple[Plugin, ...]:
    """All plug-ins of this process, in their order."""
    return tuple(_state.loaded.values())


def added_by(module: str, undo: Callable[[], object]) -> Plugin:
    """Notes that a name is added to a table.

    Args:
      module: where what bears the name was defined.
      undo: takes it back.

    Returns:
      The plug-in that is being loaded; where there is none, as in a notebook, the module itself.
    """
    _state.undo.append(undo)
    if _state.loading:
        return _state.loading[-1]
    file = getattr(sys.modules.get(module), "__file__", None)
    return Plugin(module, module, "" if file is None else _digest_of_files(pathlib.Path(file)))


def load_file(path: pathlib.Path) -> Plugin:
    """Runs a file of Python, once.

    Args:
      path: absolute.

    Raises:
      RecipeError: it is missing, breaks, adds nothing, or has changed since it was loaded; its line is named.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from None
    plugin = Plugin(path.name, str(path), hashlib.sha256(source).hexdigest())
    if not _is_new(plugin):
        return plugin
    module = types.ModuleType(_module_name(path))
    module.__file__ = str(path)
    with _loading(plugin):
        # What pickle and dataclasses find the module's classes by.
        sys.modules[module.__name__] = module
        try:
            # These bytes and no cached ones, so that the digest is that of what runs.
            exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
        except BaseException:
            del sys.modules[module.__name__]
            raise
    return plugin


def load_module(name: str) -> Plugin:
    """Imports a module that can be found as any other, once.

    Raises:
      RecipeError: it is missing, breaks, adds nothing, or has changed since it was loaded.
    """
    file = find_module(name)
    plugin = Plugin(name, name, _digest_of_files(file))
    if not _is_new(plugin):
        return plugin
    if name in sys.modules:  # imported by who started the run, which then added its names
        _state.loaded[name] = plugin
        return plugin
    with _loading(plugin):
        importlib.import_module(name)
    return plugin


def find_module(name: str) -> pathlib.Path:
    """The file of a module; of a package its `__init__.py`.

    Raises:
      RecipeError: there is no such module, or it is no file of Python.
    """
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        raise RecipeError(f"there is no module {name} of Python here; a file is named by its path, which ends in .py")
    return pathlib.Path(found.origin)


def load_installed() -> None:
    """Loads the plug-ins of installed packages, once: the modules of their entry points `jaxft.plugins`.

    Raises:
      RecipeError: one of them breaks; its package is named.
    """
    if _state.installed:
        return
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            load_module(entry.module)
        except RecipeError as error:
            package = entry.name if entry.dist is None else entry.dist.name
            raise RecipeError(f"plug-in {entry.module} of the installed package {package}: {error}") from None
    _state.installed = True


def load_again(plugins: Iterable[Plugin]) -> None:
    """Loads in this process what another one has loaded.

    Raises:
      RecipeError: one of them breaks, or has changed since.
    """
    for plugin in plugins:
        found = load_file(pathlib.Path(plugin.reference)) if _is_file(plugin) else load_module(plugin.reference)
        if found.digest != plugin.digest:
            raise RecipeError(_changed(plugin))


def check_unchanged() -> None:
    """Makes sure that another process would load what this one has loaded.

    Raises:
      RecipeError: the code of a plug-in has changed since; it is named.
    """
    for plugin in loaded():
        file = pathlib.Path(plugin.reference) if _is_file(plugin) else find_module(plugin.reference)
        if not file.is_file() or _digest_of_files(file) != plugin.digest:
            raise RecipeError(_changed(plugin))


def _is_new(plugin: Plugin) -> bool:
    before = _state.loaded.get(plugin.reference)
    if before is not None and before.digest != plugin.digest:
        raise RecipeError(_changed(plugin))
    return before is None


def _changed(plugin: Plugin) -> str:
    return f"{plugin.reference} has changed since this program loaded it; start the program again"


@contextlib.contextmanager
def _loading(plugin: Plugin) -> Iterator[None]:
    """Attributes to a plug-in what is added meanwhile, and takes it back if there is an error."""
    outer, _state.undo = _state.undo, []
    _state.loading.append(plugin)
    try:
        yield
        if not _state.undo:
            raise RecipeError(
                "adds nothing to jaxft; a plug-in registers what it has, as with @jaxft.plugins.objective(MyConfig)"
            )
        _state.loaded[plugin.reference] = plugin
    except (Exception, SystemExit) as error:
        for undo in reversed(_state.undo):
            undo()
        raise RecipeError(_broken(plugin, error)) from error
    finally:
        _state.loading.pop()
        _state.undo = outer


def _broken(plugin: Plugin, error: BaseException) -> str:
    """Where a plug-in breaks, and why."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or plugin.reference}:{error.lineno}: not valid Python: {error.msg}"
    frames = _own_frames(plugin, error)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else plugin.reference
    problem = str(error) if isinstance(error, RecipeError) else f"{type(error).__name__}: {error}"
    return f"{where}: {problem}"


def _own_frames(plugin: Plugin, error: BaseException) -> list[traceback.FrameSummary]:
    """What was running of the plug-in's own code, the innermost last."""
    file = pathlib.Path(plugin.reference) if _is_file(plugin) else find_module(plugin.reference)
    own = file.parent if file.name == "__init__.py" else file
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if pathlib.Path(frame.filename).is_relative_to(own)]


def _is_file(plugin: Plugin) -> bool:
    return pathlib.Path(plugin.reference).is_absolute()


def _module_name(path: pathlib.Path) -> str:
    """A name that only this file has, and has in every process."""
    stem = "".join(character if character.isalnum() else "_" for character in path.stem)
    return f"jaxft_plugin_{stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _digest_of_files(file: pathlib.Path) -> str:
    """Of a file; of a package, which its `__init__.py` stands for, of all its files of Python."""
    if file.name != "__init__.py":
        return hashlib.sha256(file.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for path in sorted(file.parent.rglob("*.py")):
        name = path.relative_to(file.parent).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
