"""What objectives stand in, for tests that need no more of it than a tokenizer and a length."""

from __future__ import annotations

import types
from typing import Any

from jaxft.data.tokenizers.template import own_template
from jaxft.models.config import ModelConfig
from jaxft.objectives.objective import ObjectiveContext

# For objectives whose batches are made without text.
WITHOUT_TEXT = types.SimpleNamespace(start_id=0, separator_id=0, pad_id=0, template=own_template(0, 0))


def setting_of(tokenizer: Any, length: int, stream: str = "stream", **model: Any) -> ObjectiveContext:
    """A model with rows of this length; `model` holds further fields of its config."""
    return ObjectiveContext(
        WITHOUT_TEXT if tokenizer is None else tokenizer, ModelConfig(max_length=length, **model), stream
    )
