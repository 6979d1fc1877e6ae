"""jaxft: from raw text to a good Transformer, in JAX.

    import jaxft
    summary = jaxft.train("recipe.yaml", ["training.seed=1"])
    jaxft.evaluate(summary["run_dir"])
    jaxft.predict(summary["run_dir"], "reviews.jsonl", "predicted.jsonl")

The functions are imported when they are first asked for, so that `import jaxft` stays quick.
"""

from __future__ import annotations

import importlib
from typing import Any

from jaxft.parallel.platform import choose_platform

choose_platform()

__version__ = "0.1.0"

_FUNCTIONS = {
    "classify": "jaxft.workflows.read",
    "dry_run": "jaxft.workflows.train",
    "embed": "jaxft.workflows.read",
    "evaluate": "jaxft.workflows.evaluate",
    "fill_mask": "jaxft.workflows.read",
    "generate": "jaxft.workflows.generate",
    "load_pretrained": "jaxft.workflows.pretrained",
    "open_run": "jaxft.workflows.opened",
    "plan": "jaxft.workflows.plan",
    "predict": "jaxft.workflows.predict",
    "save_pretrained": "jaxft.workflows.pretrained",
    "score": "jaxft.workflows.read",
    "quickstart": "jaxft.workflows.quickstart",
    "train": "jaxft.workflows.train",
}
__all__ = ["__version__", *_FUNCTIONS]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    raise AttributeError(f"module 'jaxft' has no attribute {name!r}")
