"""From a recipe's tactics of fine-tuning to the parts of its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.data.batches import MixedBatches, StreamBatches
from jaxft.errors import RecipeError
from jaxft.finetuning.adapters import TRAINED
from jaxft.finetuning.anchors import ewc, l2_sp, recadam, set_importance
from jaxft.finetuning.averaging import with_average
from jaxft.finetuning.lora import LoraModel, begun, check_targets, merged, trained_names
from jaxft.finetuning.mixout import mixout
from jaxft.finetuning.naming import depth, layer_names
from jaxft.finetuning.policy import Policy, PolicyConfig, make_policy
from jaxft.models.config import ModelConfig
from jaxft.models.model import AnyModel, abstract_parameters
from jaxft.objectives.objective import Objective
from jaxft.parallel.platform import step_options
from jaxft.parallel.sharding import own_rows, put_batch
from jaxft.parallel.trees import Parameters
from jaxft.training.importance import fisher_information
from jaxft.training.optimizer import make_optimizer
from jaxft.training.schedule import make_schedule
from jaxft.training.start_divergence import HeldToStart
from jaxft.training.state import Keeping, TrainState, joined, replaced, split
from jaxft.training.step import TrainStep, bind, make_train_step
from jaxft.training.stream_weights import stream_weight
from jaxft.workflows.assembly.parts import Assembly


@dataclasses.dataclass(frozen=True)
class TrainSetup:
    """What a run trains, and how.

    Attributes:
      assembly: the parts of the run.
      model: as it is trained.
      policy: which of its parameters move.
      optimizer: gradient transformation of those.
      schedule: learning rate by step.
      total_steps: of the run.
      anchored: tree of booleans: which parameters have a start that is worth keeping.
    """

    assembly: Assembly
    model: AnyModel
    policy: Policy
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    total_steps: int
    anchored: Any

    @property
    def keeping(self) -> Keeping:
        """What the state holds besides parameters and moments."""
        config, objectives = self.assembly.recipe.finetuning, self.assembly.objectives.values()
        everything = all(jax.tree.leaves(self.policy.trained))
        return Keeping(
            trained=None if everything else self.policy.trained,
            origin=config.keeps_origin or any(objective.needs_origin for objective in objectives),
            average=config.averaging is not None,
        )

    def jitted_step(self) -> jax.stages.Wrapped:
        """The train step, which takes the place of the state that it is given."""
        device = self.assembly.mesh.devices.flat[0]
        options = step_options(device.platform, device.device_kind)
        return jax.jit(self._train_step(), donate_argnums=0, compiler_options=options)

    def _train_step(self) -> TrainStep:
        recipe, config = self.assembly.recipe, self.assembly.recipe.finetuning
        weights = {
            name: stream_weight(stream.weight, stream.schedule, stream.every, self.total_steps)
            for name, stream in recipe.streams.items()
        }
        objectives = {name: self.objective(name) for name, stream in recipe.streams.items() if stream.weight}
        step = make_train_step(
            self.model,
            objectives,
            weights,
            self.optimizer,
            self.schedule,
            recipe.training.gradient_clip,
            recipe.training.micro_batches,
            balance=recipe.training.balance,
            trained=self.keeping.trained,
            vary=mixout(config.mixout, self.anchored) if config.mixout else None,
        )
        return step if config.averaging is None else with_average(step, config.averaging, self.total_steps)

    def objective(self, name: str) -> Objective:
        """What a stream is trained by: its objective, held to the start where the recipe says so."""
        objective, weight = self.assembly.objectives[name], self.assembly.recipe.finetuning.start_divergence.get(name)
        return objective if weight is None else HeldToStart(objective, weight)

    def start(self, pretrained: Parameters | None) -> Callable[[Parameters], Parameters]:
        """From fresh parameters to those that the run begins with.

        Args:
          pretrained: nested dict of arrays of the plain model, or None.
        """
        config = self.assembly.recipe.finetuning
        plain_shapes, plain_axes = abstract_parameters(self.assembly.model)

        def begin(fresh: Parameters) -> Parameters:
            if pretrained is None:
                return fresh
            if config.lora is None:
                found = replaced(fresh, pretrained)
            else:
                found = begun(pretrained, fresh, abstract_parameters(self.model)[1], config.lora)
            if config.reinitialize_layers:
                names = layer_names(plain_shapes, plain_axes, self.model.config)
                found = _with_fresh_top(found, fresh, names, self.model.config, config.reinitialize_layers)
            return found

        return begin

    def prepared(self, state: TrainState, batches: Mapping[str, StreamBatches | MixedBatches]) -> TrainState:
        """A state at step 0 with what must be found out before training: the importance of parameters."""
        config = self.assembly.recipe.finetuning.ewc
        if config is None:
            return state
        stream, mesh = batches[config.stream], self.assembly.mesh
        rows = own_rows(mesh, stream.batch_size)
        own, rest = split(state.parameters, self.keeping.trained)
        count = max(1, round(config.examples / stream.batch_size))
        with jax.set_mesh(mesh):
            importance = fisher_information(
                lambda parameters: bind(self.model, joined(parameters, rest)),
                self.assembly.objectives[config.stream].for_evaluation(),
                own,
                (put_batch(stream.batch(step, rows), mesh) for step in range(count)),
            )
        return state.replace(optimizer=set_importance(state.optimizer, importance))

    def training_items(self, state: TrainState) -> dict[str, Any]:
        """What a checkpoint holds beside the parameters to use: these themselves where others are trained."""
        items = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
        if state.average is None and self.assembly.recipe.finetuning.lora is None:
            del items["parameters"]
        return {name: value for name, value in items.items() if value is not None}

    def plain(self, parameters: Parameters) -> Parameters:
        """Parameters of this model as those of the assembly's, which everything but training uses."""
        lora = self.assembly.recipe.finetuning.lora
        if lora is None:
            return parameters
        return merged(parameters, abstract_parameters(self.model)[1], lora)


def make_train_setup(assembly: Assembly, total_steps: int) -> TrainSetup:
    """The tactics of a run.

    Raises:
      RecipeError: they do not fit the model or each other.
    """
    recipe, config = assembly.recipe, assembly.recipe.finetuning
    _check(assembly)
    model = assembly.model if config.lora is None else LoraModel(assembly.model, config.lora)
    shapes, axes = abstract_parameters(model)
    heads = frozenset(head for name in recipe.streams for head in assembly.objectives[name].heads)
    policy = make_policy(_policy_config(assembly, shapes), shapes, axes, model.config, heads, total_steps)
    known = set() if assembly.pretrained is None else set(assembly.pretrained.heads)
    parts = {"trunk", *(f"head_{name}" for name in known)}
    added = ("lora_a", "lora_b", "adapter_down_kernel", "adapter_up_kernel", "adapter_down_bias", "adapter_up_bias")
    anchored = jax.tree_util.tree_map_with_path(
        lambda path, _: path[0].key in parts and path[-1].key not in added, shapes
    )
    schedule = make_schedule(recipe.schedule, recipe.optimizer.learning_rate, total_steps)
    anchors = []
    if config.l2_sp:
        anchors.append(l2_sp(config.l2_sp, schedule, anchored))
    if config.ewc is not None:
        anchors.append(ewc(config.ewc.strength, schedule, anchored))
    if config.recadam is not None:
        anchors.append(recadam(config.recadam, schedule, anchored, total_steps))
    optimizer = make_optimizer(
        recipe.optimizer,
        schedule,
        shapes,
        axes,
        heads,
        policy=policy,
        undecayed=anchored if config.l2_sp else None,
        anchors=anchors,
    )
    return TrainSetup(assembly, model, policy, optimizer, schedule, total_steps, anchored)


def _policy_config(assembly: Assembly, shapes: Mapping[str, Any]) -> PolicyConfig:
    """What the recipe freezes, and what its low-rank updates or adapters freeze besides."""
    config = assembly.recipe.finetuning
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(PolicyConfig)}
    names = trained_names(config.lora) if config.lora is not None else TRAINED if config.adapters is not None else ()
    if names:
        # A head that is the embedding table alone has no parameters of its own.
        heads = ("^head_",) if any(part.startswith("head_") for part in shapes) else ()
        fields["train_only"] = (*fields["train_only"], *names, *heads)
    return PolicyConfig(**fields)


def _check(assembly: Assembly) -> None:
    recipe, config = assembly.recipe, assembly.recipe.finetuning
    if config.needs_start is not None and recipe.model.pretrained is None:
        raise RecipeError(
            f"finetuning.{config.needs_start}: needs a start, as in model: {{pretrained: runs/pretrained}}"
        )
    streams = {"ewc.stream": [config.ewc.stream] if config.ewc else [], "start_divergence": [*config.start_divergence]}
    for field, names in streams.items():
        for name in names:
            if name not in recipe.streams:
                raise RecipeError(
                    f"finetuning.{field}: {name!r} is not one of the streams: {', '.join(recipe.streams)}"
                )
    if config.lora is not None:
        check_targets(assembly.model, config.lora)
    if config.reinitialize_layers > assembly.model.config.num_layers:
        layers = assembly.model.config.num_layers
        raise RecipeError(f"finetuning.reinitialize_layers: the model has {layers}, found {config.reinitialize_layers}")


def _with_fresh_top(
    found: Parameters, fresh: Parameters, names: list[tuple[str, ...]], config: ModelConfig, count: int
) -> Parameters:
    """`found` with the last `count` layers, of the decoder in an encoder-decoder, as they are in `fresh`."""
    side = "trunk/decoder/" if config.family == "encoder_decoder" else "trunk/"

    def is_fresh(name: str) -> bool:
        place, top = depth(name, config)
        return name.startswith(side) and "/layer_" in name and top - count <= place < top

    out = []
    for old, new, own in zip(jax.tree.leaves(found), jax.tree.leaves(fresh), names, strict=True):
        mask = np.array([is_fresh(name) for name in own])
        if mask.any():
            mask = mask.reshape(-1, *[1] * (old.ndim - 1)) if len(mask) > 1 else mask[0]
            old = jax.jit(jnp.where)(mask, new, old)
        out.append(old)
    return jax.tree.unflatten(jax.tree.structure(found), out)
