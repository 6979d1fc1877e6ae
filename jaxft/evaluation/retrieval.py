"""How well queries find their documents among all documents."""

from __future__ import annotations

import numpy as np

from jaxft.errors import DataError

DEPTH = 10
SCORES = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr", "ndcg_at_10", "map")
_BLOCK = 1024


def scores_of_queries(queries: np.ndarray, documents: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Scores of each query, in the order of `SCORES`, when documents are ranked by their product with it.

    Of documents with equal products the first one comes first.

    Args:
      queries: float `(queries, embed)`.
      documents: float `(documents, embed)`.
      relevant: float or bool `(queries, documents)`: how relevant each document is, 0 for not at all.

    Returns:
      float64 `(queries, 6)`: share of the relevant documents among the first 1, 5 and 10; one over the rank of the
      first relevant one; discounted gain of the first 10 over the best possible one (Järvelin and Kekäläinen 2002);
      mean precision at the relevant ones.

    Raises:
      DataError: the shapes don't fit, or a query has no relevant document.
    """
    if relevant.shape != (len(queries), len(documents)):
        shape = f"{len(queries)} queries and {len(documents)} documents, but relevance of shape {relevant.shape}"
        raise DataError(shape, "different_number")
    if not (relevant > 0).any(1).all():
        raise DataError(f"query {int((relevant > 0).any(1).argmin()) + 1} has no relevant document", "no_relevant")
    blocks = range(0, len(queries), _BLOCK)
    return np.concatenate(
        [_scores(queries[start : start + _BLOCK] @ documents.T, relevant[start : start + _BLOCK]) for start in blocks]
    )


def _scores(products: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    order = np.argsort(-products, axis=1, kind="stable")
    gains = np.take_along_axis(relevant.astype(np.float64), order, 1)
    hits, ranks = gains > 0, np.arange(1, gains.shape[1] + 1)
    found = hits.cumsum(1)
    total = found[:, -1]
    recalls = [found[:, min(depth, len(ranks)) - 1] / total for depth in (1, 5, 10)]
    discounts = 1 / np.log2(ranks[:DEPTH] + 1)
    best = -np.sort(-gains, axis=1)[:, :DEPTH]
    gain = (gains[:, :DEPTH] * discounts).sum(1) / (best * discounts).sum(1)
    precision = (found / ranks * hits).sum(1) / total
    return np.stack([*recalls, 1 / (hits.argmax(1) + 1), gain, precision], 1)
