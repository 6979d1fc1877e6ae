"""From the paths that a recipe names to files that exist."""

from __future__ import annotations

import difflib
import glob
from pathlib import Path

from jaxft.data.sources.config import SourceConfig
from jaxft.errors import RecipeError


def resolve_paths(config: SourceConfig, base_directory: Path) -> list[Path]:
    """The files of a source, in the order written; those of one wildcard are sorted. None for the embedded corpus.

    A relative path starts from ``base_directory``, or from the working directory if nothing is there.

    Raises:
      RecipeError: a path or wildcard that matches no file, a directory, or a file that is named twice.
    """
    paths: list[Path] = []
    for written in config.paths:
        for path in _matches(config.format, written, base_directory):
            # Reading a file twice would weigh its rows double without a word.
            if any(path.samefile(other) for other in paths):
                raise RecipeError(f"{config.format}: {written!r} names {path} a second time; name each file once")
            paths.append(path)
    return paths


def display_path(path: Path, base_directory: Path) -> str:
    """A path as a message shows it: from the base directory or the working directory where it lies below one."""
    for directory in (base_directory, Path.cwd()):
        if path.is_relative_to(directory):
            return str(path.relative_to(directory))
    return str(path)


def _matches(key: str, written: str, base_directory: Path) -> list[Path]:
    """The files that one path or wildcard means: those below the first directory that has any."""
    expanded = Path(written).expanduser()
    directories = [Path("/")] if expanded.is_absolute() else list(dict.fromkeys((base_directory, Path.cwd())))
    for directory in directories:
        path = directory / expanded
        if path.is_file():
            return [path]
        if path.is_dir():
            raise RecipeError(
                f"{key}: {written!r} is a directory ({path}); name files, as in {written.rstrip('/') + '/*'!r}"
            )
        # Not Path.glob: it takes no absolute pattern, and its * takes hidden files too (macOS leaves some).
        found = sorted(glob.glob(str(expanded), root_dir=directory, recursive=True))  # noqa: PTH207
        files = [directory / match for match in found if (directory / match).is_file()]
        if files:
            return files
    raise RecipeError(_nothing_found(key, written, [directory / expanded for directory in directories]))


def _nothing_found(key: str, written: str, candidates: list[Path]) -> str:
    looked = " and ".join(
        str(path.parent) if path.parent.is_dir() else f"{path.parent} (no such directory)" for path in candidates
    )
    what = "no file matches" if glob.has_magic(written) else "there is no file"
    nearest = next(filter(None, map(_nearest, candidates)), None)
    hint = f" Did you mean {nearest!r}?" if nearest else ""
    return f"{key}: {what} {written!r}; looked in {looked}.{hint}"


def _nearest(path: Path) -> str | None:
    """Name of the file beside a path that is nearest to the path's own."""
    if not path.parent.is_dir():
        return None
    names = [sibling.name for sibling in path.parent.iterdir() if sibling.is_file()]
    return next(iter(difflib.get_close_matches(path.name, names, n=1)), None)
