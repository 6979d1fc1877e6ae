"""What is predicted beside what is right."""

from __future__ import annotations

from collections.abc import Sized

from jaxft.errors import DataError


def check_paired(references: Sized, predictions: Sized, what: str = "references and predictions") -> None:
    """Makes sure that there is a prediction for each reference.

    Raises:
      DataError: their numbers differ.
    """
    if len(references) != len(predictions):
        raise DataError(
            f"{what}: {len(references)} are right, but {len(predictions)} are predicted; there must be as many",
            "different_number",
        )
