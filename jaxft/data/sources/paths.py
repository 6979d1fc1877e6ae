"""From the paths that a recipe names to files that exist."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxft.data.sources.config import SourceConfig
from jaxft.data.sources.files import File, RemoteFile, is_url, remote_file
from jaxft.errors import RecipeError


def resolve_paths(config: SourceConfig, base_directory: Path) -> list[File]:
    """The files of a source, or the folders of one with images, in the order written; those of a wildcard are sorted.

    A relative path starts from ``base_directory``, or from the working directory if nothing is there. Sources that have
    a name instead of paths have no files here.

    Raises:
      RecipeError: a path or wildcard that matches nothing, a directory where files are wanted or the other way round, a
        file that is named twice, or a URL that can't be reached.
    """
    files: dict[Any, File] = {}
    for written in config.paths:
        for file in _matches(config, written, base_directory):
            # Reading a file twice would weigh its rows double without a word.
            if files.setdefault(_identity(file), file) is not file:
                raise RecipeError(f"{config.format}: {written!r} names {file} a second time; name each file once")
    return list(files.values())


def display_path(file: File, base_directory: Path) -> str:
    """A path as a message shows it: from the base directory or the working directory where it lies below one."""
    if isinstance(file, RemoteFile):
        return file.url
    for directory in (base_directory, Path.cwd()):
        if file.is_relative_to(directory):
            return str(file.relative_to(directory))
    return str(file)


def search_directories(written: str, base_directory: Path) -> list[Path]:
    """The directories that a local path starts from, in the order in which they are tried."""
    if Path(written).expanduser().is_absolute():
        return [Path("/")]
    return list(dict.fromkeys((base_directory, Path.cwd())))


def _identity(file: File) -> Any:
    if isinstance(file, RemoteFile):
        return file.filesystem, file.path
    status = file.stat()
    return status.st_dev, status.st_ino


def _matches(config: SourceConfig, written: str, base_directory: Path) -> Sequence[File]:
    return _remote_matches(config, written) if is_url(written) else _local_matches(config, written, base_directory)


def _local_matches(config: SourceConfig, written: str, base_directory: Path) -> list[Path]:
    """What one path or wildcard means: what lies below the first directory that has any."""
    is_wanted = Path.is_dir if config.names_folders else Path.is_file
    expanded = Path(written).expanduser()
    directories = search_directories(written, base_directory)
    for directory in directories:
        path = directory / expanded
        if is_wanted(path):
            return [path]
        if path.exists():
            raise RecipeError(_wrong_kind(config, written, path))
        # Not Path.glob: it takes no absolute pattern, and its * takes hidden files too (macOS leaves some).
        found = sorted(glob.glob(str(expanded), root_dir=directory, recursive=True))  # noqa: PTH207
        matches = [directory / match for match in found if is_wanted(directory / match)]
        if matches:
            return matches
    raise RecipeError(_nothing_found(config, written, [directory / expanded for directory in directories]))


def _remote_matches(config: SourceConfig, written: str) -> list[RemoteFile]:
    """What one URL or wildcard of URLs means."""
    file = remote_file(config.format, written)
    filesystem = file.filesystem
    is_wanted = filesystem.isdir if config.names_folders else filesystem.isfile
    try:
        if is_wanted(file.path):
            return [file]
        if filesystem.exists(file.path):
            raise RecipeError(_wrong_kind(config, written, file))
        found = sorted(filesystem.glob(file.path)) if glob.has_magic(file.path) else []
        matches = [RemoteFile(filesystem.unstrip_protocol(path), path, filesystem) for path in found if is_wanted(path)]
    except RecipeError:
        raise
    # Each file system has exceptions of its own, also for credentials that are missing.
    except Exception as error:
        raise RecipeError(f"{config.format}: {written!r} can't be reached: {error}") from error
    if not matches:
        raise RecipeError(f"{config.format}: {_what(config, written)} {written!r}")
    return matches


def _wrong_kind(config: SourceConfig, written: str, path: File) -> str:
    if config.names_folders:
        return f"{config.format}: {written!r} is a file ({path}); name a folder whose subfolders are the labels"
    return f"{config.format}: {written!r} is a directory ({path}); name files, as in {written.rstrip('/') + '/*'!r}"


def _what(config: SourceConfig, written: str) -> str:
    noun = "folder" if config.names_folders else "file"
    return f"no {noun} matches" if glob.has_magic(written) else f"there is no {noun}"


def _nothing_found(config: SourceConfig, written: str, candidates: list[Path]) -> str:
    looked = " and ".join(
        str(path.parent) if path.parent.is_dir() else f"{path.parent} (no such directory)" for path in candidates
    )
    nearest = next(filter(None, (_nearest(path, config.names_folders) for path in candidates)), None)
    hint = f" Did you mean {nearest!r}?" if nearest else ""
    return f"{config.format}: {_what(config, written)} {written!r}; looked in {looked}.{hint}"


def _nearest(path: Path, folders: bool) -> str | None:
    """Name of the file or folder beside a path that is nearest to the path's own."""
    if not path.parent.is_dir():
        return None
    names = [sibling.name for sibling in path.parent.iterdir() if (sibling.is_dir() if folders else sibling.is_file())]
    return next(iter(difflib.get_close_matches(path.name, names, n=1)), None)
