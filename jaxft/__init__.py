"""jaxft: from raw text to a good Transformer, in JAX.

    import jaxft
    summary = jaxft.train("recipe.yaml", ["training.seed=1"])
    jaxft.evaluate(summary["run_dir"])
    jaxft.predict(summary["run_dir"], "reviews.jsonl", "predicted.jsonl")

All of it is imported when it is first asked for, so that `import jaxft` stays quick.
"""

from __future__ import annotations

import importlib
from typing import Any

from jaxft.parallel.platform import choose_platform

choose_platform()

__version__ = "0.1.0"

_LAZY = {
    "Callback": "jaxft.training.callbacks",
    "RunControl": "jaxft.training.callbacks",
    "classify": "jaxft.workflows.inference.read_texts",
    "dry_run": "jaxft.workflows.train.dry_run",
    "embed": "jaxft.workflows.inference.read_texts",
    "evaluate": "jaxft.workflows.train.evaluate",
    "fill_mask": "jaxft.workflows.inference.read_texts",
    "generate": "jaxft.workflows.inference.generate",
    "load_pretrained": "jaxft.workflows.weights.loading",
    "open_run": "jaxft.workflows.assembly.trained_run",
    "plan": "jaxft.workflows.plan.plan",
    "predict": "jaxft.workflows.train.predict",
    "save_pretrained": "jaxft.workflows.weights.loading",
    "score": "jaxft.workflows.inference.read_texts",
    "quickstart": "jaxft.workflows.compare.quickstart",
    "train": "jaxft.workflows.train.train",
}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'jaxft' has no attribute {name!r}")
