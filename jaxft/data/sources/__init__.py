"""Sources: where rows come from, read one at a time, with the file and line of each.

    for row in read_rows(SourceConfig(jsonl=("reviews.jsonl",)), Path(".")):
        text_column(row, "text")

Whatever is wrong with a row is an error that says where; nothing is dropped or replaced in silence. ``read_rows``
raises it, ``scan_rows`` gives it in place of the row.
"""

from jaxft.data.sources.config import SourceConfig, source_of_file
from jaxft.data.sources.fingerprint import source_fingerprint
from jaxft.data.sources.images import read_image, unlabelled_images
from jaxft.data.sources.paths import resolve_paths
from jaxft.data.sources.rows import Row, Scanned, required_column, text_column
from jaxft.data.sources.scanning import read_rows, scan_rows

__all__ = [
    "Row",
    "Scanned",
    "SourceConfig",
    "read_image",
    "read_rows",
    "required_column",
    "resolve_paths",
    "scan_rows",
    "source_fingerprint",
    "source_of_file",
    "text_column",
    "unlabelled_images",
]
