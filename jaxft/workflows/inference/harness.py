"""Models as lm-evaluation-harness scores them."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.errors import RecipeError
from jaxft.generation.config import GenerationConfig
from jaxft.generation.prompts import context_of
from jaxft.generation.scoring import Score
from jaxft.workflows.inference.generate import TextGenerator, make_config, open_text_generator
from jaxft.workflows.weights.opened_model import ModelSource

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise RecipeError(f"the harness needs {error.name}; install it with: pip install 'jaxft[harness]'") from None

_NEW = 256
# Options of tasks, and what they are here.
_OPTIONS = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_gen_toks": "max_new_tokens",
    "max_new_tokens": "max_new_tokens", "max_tokens": "max_new_tokens", "num_beams": "beams",
    "repetition_penalty": "repetition_penalty", "min_p": "min_p", "seed": "seed",
}  # fmt: skip


class HarnessModel(LM):
    """A model of ours as one of the harness: `lm_eval.simple_evaluate(model=HarnessModel("runs/story"), tasks=[...])`.

    What is longer than the model's context loses its beginning, as in the harness's own models.

    Args:
      source: a directory in Hugging Face layout, the id of one on the hub, a run, or what `open_text_generator` gave.
      dtype: `float32` or `bfloat16`.
      batch_size: most texts at once.

    Raises:
      RecipeError: the model can't write.
      CheckpointError: nothing there can be loaded.
    """

    def __init__(self, source: ModelSource | TextGenerator, dtype: str = "float32", batch_size: int = 16):
        super().__init__()
        self._name = str(source) if isinstance(source, str | pathlib.Path) else "jaxft"
        self._text_generator = (
            source if isinstance(source, TextGenerator) else open_text_generator(source, dtype, batch_size=batch_size)
        )
        generator = self._text_generator.generator
        generator.need_tokenizer()
        self._context = context_of(generator.decoder.model.config)

    @property
    def tokenizer_name(self) -> str:
        """What the harness names its caches by."""
        return self._name

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether it is the greedy one."""
        pairs = [self._fitting(*self._text_generator.split(*request.args)) for request in requests]
        return [(one.log_probability, one.is_greedy) for one in self._score(pairs)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text, in windows where it is longer than the context."""
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        owners: list[int] = []
        sums = [0.0] * len(requests)
        for number, request in enumerate(requests):
            start, ids = self._text_generator.split("", request.args[0])
            windows = get_rolling_token_windows(
                ids.tolist(), int(start[0]), max_seq_len=self._context or max(1, len(ids)), context_len=1
            )
            for window in windows:
                context, continuation = make_disjoint_window(window)
                pairs.append((np.asarray(context, np.int32), np.asarray(continuation, np.int32)))
                owners.append(number)
        for owner, one in zip(owners, self._score(pairs), strict=True):
            sums[owner] += one.log_probability
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """A text for each prompt, up to one of the strings that end it."""
        generator = self._text_generator.generator
        groups: dict[GenerationConfig, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(_config(request.args[1]), []).append(number)
        texts = [""] * len(requests)
        for config, numbers in groups.items():
            prompts = [self._prompt(requests[number].args[0], config) for number in numbers]
            for one in generator.generate(self._text_generator.parameters, prompts, config):
                texts[numbers[one.prompt]] = one.text
        return texts

    def _score(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Score]:
        text_generator = self._text_generator
        return text_generator.generator.score(
            text_generator.parameters, [one for one, _ in pairs], [two for _, two in pairs]
        )

    def _fitting(self, context: np.ndarray, continuation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A pair that the model can read: the last of its tokens is read by nothing."""
        if self._context is None or self._text_generator.generator.decoder.has_encoder:
            return context[-(self._context or len(context)) :], continuation
        continuation = continuation[-self._context :]
        return context[-(self._context + 1 - len(continuation)) :], continuation

    def _prompt(self, text: str, config: GenerationConfig) -> np.ndarray:
        """A prompt after which there is room for what is to be written, or for half the context."""
        generator = self._text_generator.generator
        (ids,) = generator.encode([text]) if text else (self._text_generator.split("", " ")[0],)
        if self._context is None:
            return ids
        if generator.decoder.has_encoder:
            return ids[-self._context :]
        return ids[-max(self._context - config.max_new_tokens, self._context // 2, 1) :]


def _config(options: Mapping[str, Any]) -> GenerationConfig:
    """A task's options as ours.

    Raises:
      RecipeError: one has an impossible value.
    """
    given = {ours: options[theirs] for theirs, ours in _OPTIONS.items() if options.get(theirs) is not None}
    if not options.get("do_sample", float(given.get("temperature", 0)) > 0) or given.get("beams", 1) > 1:
        given["temperature"] = 0.0
    until = options.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(text for text in until if text)
    return make_config({"max_new_tokens": _NEW, **given, "stop": stop})


@functools.cache
def _task_manager(include: str | None) -> TaskManager:
    """What knows the tasks, of which there are thousands of files to be read."""
    return TaskManager(include_path=include)


def evaluate_tasks(
    source: ModelSource | TextGenerator,
    tasks: Sequence[str | dict[str, Any]],
    shots: int | None = None,
    limit: int | None = None,
    include: str | pathlib.Path | None = None,
    dtype: str = "float32",
    batch_size: int = 16,
) -> dict[str, Any]:
    """Scores a model by tasks of the harness.

    Args:
      source: as for `HarnessModel`.
      tasks: names, or settings of tasks.
      shots: examples before each question; as a task has it where None.
      limit: only so many examples of each task.
      include: directory with tasks of one's own, in YAML.
      dtype: `float32` or `bfloat16`.
      batch_size: most texts at once.

    Returns:
      For each task its metrics.

    Raises:
      RecipeError: an unknown task, or a model that can't write.
    """
    import lm_eval

    manager = _task_manager(None if include is None else str(include))
    if unknown := [name for name in tasks if isinstance(name, str) and not manager.match_tasks([name])]:
        raise RecipeError(f"the harness has no task {unknown[0]!r}; `lm_eval ls tasks` lists them")
    model = HarnessModel(source, dtype, batch_size)
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=list(tasks),
        num_fewshot=shots,
        limit=limit,
        task_manager=manager,
        log_samples=False,
        bootstrap_iters=1000,
    )
    return {
        name: {key.removesuffix(",none"): value for key, value in metrics.items() if isinstance(value, int | float)}
        for name, metrics in found["results"].items()
    }
