"""What a source holds and how it is read, as one number."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxft.data.cache import cache_directory
from jaxft.data.embedded import embedded_rows
from jaxft.data.sources.added import added_identity
from jaxft.data.sources.config import FORMATS, SourceConfig
from jaxft.data.sources.files import File, RemoteFile, WatchedFile, compression, open_file, size_of
from jaxft.data.sources.hf_datasets import hf_identity
from jaxft.data.sources.images import labelled_files
from jaxft.data.sources.paths import display_path, resolve_paths
from jaxft.data.sources.tfds import tfds_identity
from jaxft.reporting.atomic import write_atomically
from jaxft.reporting.reading import Reading, is_shown

# Smaller files are read again sooner than their digest is looked up.
_CACHED_FROM_BYTES = 2**20
# A file can change twice within one tick of its file system's clock, which is two seconds at worst (FAT).
_SETTLED_SECONDS = 2


def source_fingerprint(config: SourceConfig, base_directory: Path) -> str:
    """A SHA-256 (hexadecimal) of what a source holds and how it is read.

    Where its files lie, what they are called and how old they are makes no difference. Datasets that have a version or
    fingerprint of their own (`tfds`, `hf`) are taken at its word.

    Raises:
      RecipeError: a file is missing or can't be read.
    """
    options = {name: value for name, value in vars(config).items() if name not in (*FORMATS, "added")}
    digest = hashlib.sha256(json.dumps([config.format, options], sort_keys=True).encode())
    if config.format == "embedded":
        for values in embedded_rows(*config.embedded_part, cache_directory()):
            digest.update(json.dumps(values).encode() + b"\n")
    elif config.added is not None:
        digest.update(added_identity(config.added, base_directory).encode())
    elif config.format == "tfds":
        digest.update(tfds_identity(config).encode())
    elif config.format == "hf":
        digest.update(hf_identity(config, base_directory).encode())
    for file in resolve_paths(config, base_directory):
        name = display_path(file, base_directory)
        digest.update(_folder_digest(file, name) if config.names_folders else _file_digest(file, name))
        digest.update(compression(file).encode())
    return digest.hexdigest()


def _file_digest(file: File, name: str) -> bytes:
    def compute() -> bytes:
        with Reading(f"{name}, looking whether it has changed", size_of(file)) as reading:
            watched = WatchedFile(file, reading.add_bytes) if is_shown() else file
            with open_file(watched, name) as stream:
                return hashlib.file_digest(stream, "sha256").digest()

    if isinstance(file, RemoteFile) or file.stat().st_size < _CACHED_FROM_BYTES:
        return compute()
    return _cached_digest([file], compute)


def _folder_digest(folder: File, name: str) -> bytes:
    files = list(labelled_files(folder))

    def compute() -> bytes:
        digest = hashlib.sha256()
        for file, place in files:
            with open_file(file, f"{name}/{place}") as stream:
                digest.update(json.dumps(place).encode() + hashlib.file_digest(stream, "sha256").digest())
        return digest.digest()

    local = [file for file, _ in files if isinstance(file, Path)]
    return compute() if isinstance(folder, RemoteFile) else _cached_digest(local, compute)


def _cached_digest(files: Sequence[Path], compute: Callable[[], bytes]) -> bytes:
    """A digest of files that is computed again only when one of them has another path, size or time of change."""
    state, newest = _state(files)
    path = cache_directory() / "digests" / state
    cached = _read_digest(path)
    if cached is not None:
        return cached
    digest = compute()
    if _state(files)[0] == state and time.time_ns() - newest > _SETTLED_SECONDS * 10**9:
        # A cache that can't be written costs time, nothing else.
        with contextlib.suppress(OSError):
            write_atomically(path, digest.hex().encode())
    return digest


def _read_digest(path: Path) -> bytes | None:
    try:
        digest = bytes.fromhex(path.read_text())
    except (OSError, ValueError):
        return None
    return digest if len(digest) == hashlib.sha256().digest_size else None


def _state(files: Sequence[Path]) -> tuple[str, int]:
    """A name for files as they are now, and when the last of them changed, in nanoseconds."""
    digest, newest = hashlib.sha256(), 0
    for file in files:
        status = file.stat()
        # The time of the last change of any kind too: unlike the other it can't be set back.
        times = (status.st_mtime_ns, status.st_ctime_ns)
        digest.update(json.dumps([str(file.absolute()), status.st_size, *times]).encode())
        newest = max(newest, *times)
    return digest.hexdigest(), newest
