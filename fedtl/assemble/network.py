"""From a config to the network that clients train: the model, and the modules that terms bring along."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from torch import Tensor, nn

from fedtl.choice import ConfigError
from fedtl.config.schema import Config
from fedtl.data.federation import Federation
from fedtl.data.samples import FewSamples
from fedtl.losses.term import Sizes, Term, module_name
from fedtl.models import build_model
from fedtl.models.composite import Composite, layer_sizes, model_of
from fedtl.models.generators import seeded
from fedtl.models.settings import ModelChoice
from fedtl.models.sharing import freeze
from fedtl.models.trial import taken_by
from fedtl.models.vector import Layout
from fedtl.random import Purpose, derived_seed


def build_module(
    config: Config, federation: Federation, terms: Sequence[Term]
) -> tuple[nn.Module, dict[str, nn.Module], set[str]]:
    """The network, initialised from the run's seed alone; the model's bits do not depend on the terms.

    Returns:
        The model, or a composite of it and the modules that terms train; modules that terms use frozen; names of
        those modules that stay at the client.

    Raises:
        ConfigError: it cannot be built.
    """
    few = FewSamples.of(federation)
    model = build_model(config.model, federation.shape, federation.outputs, config.seed, few, federation.task)
    module, frozen, private = with_modules(model, federation, terms, config.seed)
    freeze(module, config.strategy.frozen)
    return module, frozen, private


def with_modules(
    model: nn.Module, federation: Federation, terms: Sequence[Term], seed: int
) -> tuple[nn.Module, dict[str, nn.Module], set[str]]:
    """A model and the modules that terms bring along; see :func:`build_module`."""
    few = FewSamples.of(federation)
    extras: dict[str, nn.Module] = {}
    frozen: dict[str, nn.Module] = {}
    private: set[str] = set()
    seen: set[str] = set()
    trained = {term.key for term in terms if term.weight}
    for term in terms:
        if term.key in seen:  # in more than one phase: its modules go on
            continue
        seen.add(term.key)
        try:
            layers = layer_sizes(model, taken_by(model, federation.shape, few), term.layers())
        except ConfigError as error:
            raise ConfigError(f"the term {term.key!r}: {error}") from error
        sizes = Sizes(federation.shape, federation.outputs, layers, model, federation.class_counts)
        with seeded(derived_seed(seed, Purpose.MODULES, term.key)):
            try:
                own, fixed = term.modules(sizes), term.frozen(sizes)
            except ConfigError as error:
                raise ConfigError(f"the term {term.key!r}: {error}") from error
        if taken := sorted({module_name(term, name) for name in (*own, *fixed)} & {*extras, *frozen}):
            raise ConfigError(
                f"the term {term.key!r}: its module {taken[0]!r} has the name of another term's, as what is no letter, "
                "digit or _ of a term's name is _ in it; give one of them another name"
            )
        if term.key not in trained:  # it would not move, and is no part of the model
            own, fixed = {}, {**own, **fixed}
        extras |= {module_name(term, name): module for name, module in own.items()}
        frozen |= {module_name(term, name): module.requires_grad_(False).eval() for name, module in fixed.items()}
        private |= {module_name(term, name) for name in term.private() if name in own}
    return Composite(model, extras) if extras else model, frozen, private


def drawn_anew(model: ModelChoice, federation: Federation, module: nn.Module, layout: Layout, seed: int) -> Tensor:
    """The numbers ``[d]`` of a network whose model is initialised from another seed, without pretrained weights.

    Args:
        model: the choice of it.
        federation: what it is to fit.
        module: the network, which stays as it is; modules of terms are taken from it.
        layout: of its vector.
        seed: of the initialisation.
    """
    few = FewSamples.of(federation)
    fresh = build_model(model.untrained(), federation.shape, federation.outputs, seed, few, federation.task)
    network = deepcopy(module)
    model_of(network).load_state_dict(fresh.state_dict())
    return layout.flatten(network)
