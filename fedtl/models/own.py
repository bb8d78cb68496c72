"""A user's own network, by the dotted path of its class or of a function that makes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict
from torch import nn

from fedtl.choice import ConfigError, load_object, nearest
from fedtl.data.torchvision_ops import import_torchvision, is_missing_operator
from fedtl.models.settings import ModelChoice

FROM_DATA = ("input_shape", "classes")
"""Parameters that the data fill in, where the class or function has them; a config cannot set them."""


class OwnModelChoice(ModelChoice):
    """An ``nn.Module`` class, or a function that returns a module; all other keys are keyword arguments.

    ``input_shape`` (a sample's shape, a tuple) and ``classes`` are passed if the signature names them.
    """

    model_config = ConfigDict(extra="allow")

    def check(self) -> None:
        """Compare the keys with the signature.

        Raises:
            ConfigError: a key is no parameter, is one that the data fill in, or is missing.
        """
        parameters = _signature(self.name, self._maker())
        if parameters is None:
            return
        extra = self.model_extra or {}
        options = {
            word: parameter
            for word, parameter in parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and word not in FROM_DATA
        }
        takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
        for word in extra:
            if word in FROM_DATA:
                raise ConfigError(f"model.{word} is not a key here: the data say it")
            if word not in options and not takes_any:
                raise ConfigError(f"model.{word} is not an argument of {self.name!r}: {nearest(word, options)}")
        for word, parameter in parameters.items():
            if parameter.kind == parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
                raise ConfigError(
                    f"model.name = {self.name!r}: its argument {word!r} cannot be given by name, as a config does"
                )
            if word in options and parameter.default is parameter.empty and word not in extra:
                raise ConfigError(f"model.{word} is missing: {self.name!r} needs it")

    def build(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """Call the user's class or function."""
        maker = self._maker()
        parameters = _signature(self.name, maker) or {}
        known = dict(zip(FROM_DATA, (shape, classes)))
        from_data = {word: value for word, value in known.items() if word in parameters}
        module = maker(**from_data, **(self.model_extra or {}))
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"model.name = {self.name!r}: it should return a torch.nn.Module, not a {type(module).__name__}"
            )
        return module

    def _maker(self) -> Callable[..., Any]:
        # Found again at each use: a choice travels between processes, and a user's class may not pickle.
        loaded = load_own(self.name)
        if not callable(loaded):
            raise ConfigError(
                f"model.name = {self.name!r}: it should be a torch.nn.Module class or a function, "
                f"not a {type(loaded).__name__}"
            )
        maker: Callable[..., Any] = loaded
        return maker


def load_own(path: str) -> Any:
    """Import a user's object, declaring torchvision's operators first where her import fails for them.

    Raises:
        ConfigError: as :func:`fedtl.choice.load_object`.
    """
    try:
        return load_object(path, "model.name")
    except ConfigError as error:
        if not is_missing_operator(error.__cause__):
            raise
    import_torchvision()
    return load_object(path, "model.name")


def _signature(name: str, maker: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """Parameters by name, or None where Python cannot tell (some builtins)."""
    if isinstance(maker, type) and not issubclass(maker, nn.Module):
        raise ConfigError(f"model.name = {name!r}: the class should be a torch.nn.Module")
    try:
        return dict(inspect.signature(maker).parameters)
    except (TypeError, ValueError):
        return None
