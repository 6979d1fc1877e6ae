"""The evaluators of a run, and how its model answers prompts in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxft.evaluation.evaluator import Evaluator, WriteAnswers
from jaxft.generation.config import GenerationConfig, SpecialTokens
from jaxft.generation.generator import Generator
from jaxft.objectives.objective import Objective
from jaxft.objectives.writing import WritesAnswers
from jaxft.parallel.trees import Parameters
from jaxft.workflows.assembly.batches import evaluation_source, held_out_batches
from jaxft.workflows.assembly.parts import Assembly


def make_evaluators(assembly: Assembly) -> dict[str, Evaluator]:
    """Evaluators by name, of parts `with_rows_of_shares`; tokenizes what is not in the cache."""
    return {name: _evaluator(assembly, name) for name in assembly.recipe.evaluation}


def _evaluator(assembly: Assembly, name: str) -> Evaluator:
    section, source = assembly.recipe.evaluation[name], evaluation_source(assembly, name)
    metrics = section.metrics or source.objective.default_metrics
    batches = held_out_batches(assembly, source, section.batch_size)
    write = answer_writer(assembly, source.objective, section.generation, batches.batch_size)
    return Evaluator(name, assembly.model, source.objective, batches, metrics, assembly.mesh, write)


def answer_writer(
    assembly: Assembly, objective: Objective, config: GenerationConfig | None, batch_size: int
) -> WriteAnswers | None:
    """How the model answers the prompts of an objective whose answers are written; None for others.

    Args:
      assembly: parts of the run.
      objective: see there.
      config: how it writes; greedily, and as long as the objective's answers may be, where None.
      batch_size: answers that are written at once.
    """
    if not isinstance(objective, WritesAnswers):
        return None
    config = config or GenerationConfig(max_new_tokens=objective.longest_answer)
    special = SpecialTokens(end=objective.end_ids, pad=assembly.tokenizer.pad_id, start=objective.start_ids)
    generator = Generator(assembly.model, special, assembly.tokenizer, assembly.mesh, batch_size)

    def write(parameters: Parameters, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
        written = generator.generate(parameters, prompts, config)
        return [one.token_ids[~np.isin(one.token_ids, special.end)] for one in written]

    return write
