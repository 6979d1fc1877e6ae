"""What a model must beat to have learned anything."""

from __future__ import annotations

import numpy as np

from jaxft.data.batches import MixedBatches, StreamBatches
from jaxft.data.store import TOKENS


def unigram_loss(training: StreamBatches | MixedBatches, heldout: StreamBatches, vocab_size: int) -> float:
    """Mean loss, in nats, of the best guess that knows only how often each token occurs.

    The distribution is that of the training tokens with one added to every count; it is scored on the very tokens that
    masked language modelling predicts in the held-out data.

    Args:
      training: batches of the training stream, whose stores are counted whole.
      heldout: batches of the held-out data, with `labels` and `label_weights`.
      vocab_size: number of tokens.
    """
    counts = np.ones(vocab_size)
    for store in training.stores:
        for start in range(0, len(store), 1000):
            records = store.read(list(range(start, min(start + 1000, len(store)))))
            counts += np.bincount(np.concatenate([record[TOKENS] for record in records]), minlength=vocab_size)
    losses = -np.log(counts / counts.sum())
    loss = weight = 0.0
    for number in range(heldout.final_batches()):
        batch = heldout.padded_batch(number)
        weights = batch["label_weights"] * batch["row_weight"][:, None]
        loss += float((losses[batch["labels"]] * weights).sum())
        weight += float(weights.sum())
    return loss / max(weight, 1e-9)


def majority_share(heldout: StreamBatches) -> float:
    """Accuracy of always giving the most frequent label of the held-out data."""
    labels = [
        batch["label"][batch["row_weight"] > 0] for batch in map(heldout.padded_batch, range(heldout.final_batches()))
    ]
    counts = np.bincount(np.concatenate(labels))
    return float(counts.max() / counts.sum())
