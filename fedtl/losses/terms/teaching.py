"""Terms by which one model learns from another: a teacher that stands still, or a peer that learns too."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, SerializeAsAny, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl import losses
from fedtl.choice import ConfigError, Options, as_recorded
from fedtl.losses.batch import Sizes
from fedtl.losses.teaching import without_use_of
from fedtl.losses.term import Term, TermContext
from fedtl.losses.terms.rows import over_samples
from fedtl.models import ModelChoice, build_model, read_model


class _Teacher(Options):
    """Where a frozen teacher is."""


class FromRun(_Teacher):
    """A teacher out of a run's folder, whose config says which model it is.

    Attributes:
        run: the folder.
    """

    run: str = Field(min_length=1)

    def make(self, sizes: Sizes) -> nn.Module:
        """The run's final global model."""
        import tomllib

        key, config = f"teacher.run = {self.run!r}", Path(self.run) / "config.toml"
        try:
            table = tomllib.loads(config.read_text(encoding="utf-8"))["model"]
        except FileNotFoundError as error:
            raise ConfigError(f"{key}: there is no run's folder of that name, which holds a config.toml") from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError) as error:
            raise ConfigError(f"{key}: its config.toml cannot be read, or has no [model]") from error
        with as_recorded():
            choice = read_model(table)
        return _trained(choice, self.run, "teacher.run", sizes)


class FromFile(_Teacher):
    """A teacher out of a .safetensors file.

    Attributes:
        file: the file.
        model: which model it is, as a [model] table.
    """

    file: str = Field(min_length=1)
    model: SerializeAsAny[ModelChoice]

    @field_validator("model", mode="plain")
    @classmethod
    def _read_model(cls, value: Any) -> ModelChoice:
        return _model(value)

    def make(self, sizes: Sizes) -> nn.Module:
        """The file's model."""
        return _trained(self.model, self.file, "teacher.file", sizes)


class Distillation(Term):
    """Knowledge distillation (Hinton et al. 2015); see :func:`fedtl.losses.distillation`.

    Attributes:
        stream: the samples on which the model learns from its teacher: "samples", what the client trains on; or
            "source", "target", "unlabelled", "public".
        teacher: the same network with other numbers: "global", the model that the client received; "previous", what
            it had trained when it last took part; "phase", the global model when the phase began, as born-again
            networks (Furlanello et al. 2018) learn from the generation before; "initial", the run's first one. Or a
            model of its own, which may be another network: { run = "results/..." }, or { file = "x.safetensors",
            model = { name = "mlp" } }. It neither trains nor travels; every machine reads it from its own disk, and it
            sees samples as this run's data are normalised.
        temperature: T. The paper leaves it open, and says that small students want it low; 4 is customary.
        scale_t2: whether the loss is multiplied by T².
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    per_sample: ClassVar[bool] = True

    stream: Literal["samples", "source", "target", "unlabelled", "public"] = "samples"
    teacher: Literal["global", "previous", "phase", "initial"] | FromRun | FromFile = "global"
    temperature: PositiveFloat = 4.0
    scale_t2: bool = True

    @field_validator("teacher", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        keys = set(value) if isinstance(value, dict) else None
        if value in ("global", "previous", "phase", "initial") or keys in ({"run"}, {"file", "model"}):
            return value
        if isinstance(value, _Teacher):
            return value
        raise ValueError(
            "should be 'global', 'previous', 'phase' or 'initial', or { run = 'results/...' }, or "
            "{ file = 'x.safetensors', model = { name = 'mlp' } }"
        )

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.losses.term.Term`."""
        return {**super().without_use(), **without_use_of(self.temperature)}

    def wants(self) -> frozenset[str]:
        """The stream, and the teacher where it is one of the run's own models."""
        return frozenset({self.stream, f"model:{self.teacher}"} if isinstance(self.teacher, str) else {self.stream})

    def frozen(self, sizes: Sizes) -> dict[str, nn.Module]:
        """The teacher, where it comes from a file."""
        return {} if isinstance(self.teacher, str) else {"teacher": self.teacher.make(sizes)}

    def value(self, context: TermContext) -> Tensor:
        """T² KL(teacher ‖ student)."""
        stream = context.stream(self.stream)
        if isinstance(self.teacher, str):
            teacher_logits = stream.under(self.teacher).logits
        else:
            with torch.no_grad():
                teacher_logits = self.module(context, "teacher")(stream.x)
        loss = partial(losses.distillation, temperature=self.temperature, scale_t2=self.scale_t2)
        return over_samples(stream, loss, stream.logits, teacher_logits)


class NotTrueDistillation(Term):
    """Distillation of the received model's predictions for the classes that a sample is not of (Lee et al. 2022).

    See :func:`fedtl.losses.not_true_distillation`; the term's weight is FedNTD's β.

    Attributes:
        temperature: τ.
        scale_t2: whether the loss is multiplied by τ².
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    needs: ClassVar[frozenset[str]] = frozenset({"source", "model:global"})
    per_sample: ClassVar[bool] = True

    temperature: PositiveFloat = 1.0
    scale_t2: bool = True

    def without_use(self) -> Mapping[str, str]:
        """See :class:`~fedtl.losses.term.Term`."""
        return {**super().without_use(), **without_use_of(self.temperature)}

    def value(self, context: TermContext) -> Tensor:
        """τ² KL(received ‖ trained)."""
        stream = context.source
        loss = partial(losses.not_true_distillation, temperature=self.temperature, scale_t2=self.scale_t2)
        return over_samples(stream, loss, stream.logits, stream.under("global").logits, context.labels)


class Mutual(Term):
    """Mutual learning with a peer that stays at the client (Zhang et al. 2018, DML; Shen et al. 2020, FML).

    The peer is a model of its own, perhaps another network; it trains beside the one that travels (FML's meme model),
    never leaves the client, and is scored as ``personal/clients``. Each learns from the labels and from the other's
    predictions, which stand still for it. The travelling model's own cross-entropy is the term "cross_entropy".

    value = CE(peer) + KL(model ‖ peer) + KL(peer ‖ model), DML's two losses less the model's cross-entropy;
    with FML's weights, α CE(peer) + (1 - α) KL(model ‖ peer) + (1 - β) KL(peer ‖ model), beside "cross_entropy" of
    weight β.

    Differs from the papers: both learn at once with the client's one learning rate, each from the other as it was
    before the step; DML's algorithm 1 updates one network and then the other.

    Attributes:
        peer: the peer, as a [model] table.
        alpha: FML's α; DML's weights of 1 if not given.
        beta: FML's β; likewise.
        temperature: of the predictions that are compared; 1 in both papers.
    """

    tasks: ClassVar[frozenset[str] | None] = frozenset({"classification"})

    needs: ClassVar[frozenset[str]] = frozenset({"source"})
    per_sample: ClassVar[bool] = True

    peer: SerializeAsAny[ModelChoice] = Field(default_factory=lambda: read_model({"name": "mlp"}))
    alpha: float | None = Field(None, ge=0, le=1)
    beta: float | None = Field(None, ge=0, le=1)
    temperature: PositiveFloat = 1.0

    @field_validator("peer", mode="plain")
    @classmethod
    def _read_peer(cls, value: Any) -> ModelChoice:
        return _model(value)

    def modules(self, sizes: Sizes) -> dict[str, nn.Module]:
        """The peer."""
        return {"peer": build_model(self.peer, sizes.shape, sizes.classes, int(torch.randint(2**31, ())))}

    def private(self) -> frozenset[str]:
        """The peer."""
        return frozenset({"peer"})

    def personal_module(self) -> str | None:
        """The peer."""
        return "peer"

    def value(self, context: TermContext) -> Tensor:
        """The peer's cross-entropy, and what each learns from the other."""
        stream = context.source
        if context.observed:  # what trains nothing leaves the peer's batch-norm statistics alone
            with context.net.evaluating():
                peer = self.module(context, "peer")(stream.x)
        else:
            peer = self.module(context, "peer")(stream.x)
        labels, model = 1.0 if self.alpha is None else self.alpha, stream.logits
        to_peer = 1.0 if self.alpha is None else 1 - self.alpha
        to_model = 1.0 if self.beta is None else 1 - self.beta
        kl = partial(losses.distillation, temperature=self.temperature)
        return (
            labels * over_samples(stream, F.cross_entropy, peer, context.labels)
            + to_peer * over_samples(stream, kl, peer, model.detach())
            + to_model * over_samples(stream, kl, model, peer.detach())
        )


def _model(value: Any) -> ModelChoice:
    if isinstance(value, ModelChoice):
        return value
    if not isinstance(value, dict):
        raise ValueError("should be a table, as { name = 'mlp', hidden = [32] }")
    return read_model(value)


def _trained(choice: ModelChoice, source: str, key: str, sizes: Sizes) -> nn.Module:
    """A model with parameters out of a run's folder or a file, all of them."""
    from fedtl.models.pretrained import check_whole, copy, read_weights

    check_whole(source, key)
    module = build_model(choice.untrained(), sizes.shape, sizes.classes, 0)
    copy(read_weights(source, key), module, f"{key} = {source!r}")
    return module
