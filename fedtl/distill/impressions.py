"""Samples out of a trained model: inputs that are optimised until it says of them what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedtl.choice import ConfigError
from fedtl.distill.augment import jitter
from fedtl.distill.method import Observer, SilentObserver, by_pixel, frozen, generator
from fedtl.losses.data_free import class_impression_objective, zskd_concentration
from fedtl.models.generators import generators_of, seeded
from fedtl.models.head import head_name
from fedtl.models.input_casts import InputCasts

Bounds = tuple[Tensor, Tensor]


def class_impressions(
    module: nn.Module,
    classes: int | Sequence[int],
    per_class: int,
    shape: tuple[int, ...],
    steps: int = 200,
    lr: float = 0.05,
    seed: int = 0,
    device: torch.device | str | None = None,
    *,
    confidence: tuple[float, float] = (0.55, 0.99),
    augment: bool = True,
    noise: float = 0.1,
    bounds: Bounds | None = None,
    chunk: int = 200,
    watch: Observer | None = None,
) -> tuple[Tensor, Tensor]:
    """Inputs that a model takes for given classes.

    Mopuri et al., "Ask, Acquire, and Attack", ECCV 2018: from random noise, Adam maximises the class's logit, the
    input being turned, scaled and given noise anew in each step, until the softmax is as sure of the class as was
    asked for. What each sample must reach is drawn from ``confidence``, so that samples are not alike.

    Args:
        module: gives logits ``[n, k]``; it is asked in evaluation mode, and stays as it was.
        classes: labels, or a number k for 0 to k-1.
        per_class: how many samples of each.
        shape: of a sample.
        steps: of Adam at most.
        lr: its step, in model inputs.
        seed: of the random start and changes; the caller's random state stays as it was.
        device: where to compute; where the module is, if not given.
        confidence: the lowest and highest probability at which a sample is left as it is.
        augment: whether the input is changed at random in each step.
        noise: with augment, uniform noise of up to this in model inputs.
        bounds: the smallest and largest inputs, each broadcastable to a sample; inputs are kept between them.
        chunk: samples that are optimised together.
        watch: is told of each step.

    Returns:
        x ``[n, *shape]`` float32 and labels ``[n]`` int64, in the order of the classes, on the device.
    """
    device = _place(module, device)
    wanted = torch.arange(classes) if isinstance(classes, int) else torch.as_tensor(list(classes))
    labels = wanted.repeat_interleave(per_class).to(device)
    rng = generator(seed)
    low, high = confidence
    goals = torch.empty(len(labels)).uniform_(low, high, generator=rng).to(device) if high > low else None

    def objective(logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        asked = labels[rows]
        sure = logits.detach().softmax(1).gather(1, asked[:, None])[:, 0]
        return class_impression_objective(logits, asked), sure >= (goals[rows] if goals is not None else high)

    search = _Search(steps, lr, augment, noise, bounds, watch or SilentObserver())
    return search.run(module, len(labels), shape, chunk, rng, device, objective), labels


def data_impressions(
    module: nn.Module,
    per_class: int,
    shape: tuple[int, ...],
    steps: int = 1500,
    lr: float = 0.05,
    seed: int = 0,
    device: torch.device | str | None = None,
    *,
    betas: Sequence[float] = (1.0, 0.1),
    temperature: float = 20.0,
    convention: str = "paper",
    bounds: Bounds | None = None,
    chunk: int = 200,
    watch: Observer | None = None,
) -> tuple[Tensor, Tensor]:
    """Inputs for which a model's softened output is a soft target drawn for them.

    Nayak et al., "Zero-Shot Knowledge Distillation in Deep Networks", ICML 2019: class c's targets are drawn from
    Dir(β · similarity of c to the others), which the head's weights tell, in equal parts for each β; from uniform
    noise, Adam minimises the cross-entropy between the target and softmax(logits / T).

    Args:
        module: gives logits ``[n, k]`` through a linear head; it is asked in evaluation mode, and stays as it was.
        per_class: how many samples of each class, divided among the betas.
        shape: of a sample.
        steps: of Adam; 1,500 in the authors' code.
        lr: its step, in model inputs.
        seed: of the targets and the random start; the caller's random state stays as it was.
        device: where to compute; where the module is, if not given.
        betas: of the concentrations.
        temperature: T.
        convention: "paper" or "authors", as in :func:`~fedtl.losses.data_free.zskd_concentration`.
        bounds: the smallest and largest inputs, each broadcastable to a sample; inputs are kept between them. The
            authors' code scales a whole batch to 0..1 in each step instead.
        chunk: samples that are optimised together.
        watch: is told of each step.

    Returns:
        x ``[n, *shape]`` float32 and the targets ``[n, k]`` float32, on the device.
    """
    device = _place(module, device)
    name = head_name(module)
    weight = getattr(module.get_submodule(name), "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ConfigError(
            f"method.name = 'zskd': the teacher's head {name!r} is no linear layer, so it does not tell how alike "
            "classes are; 'class-impressions' and 'dafl' take any head"
        )
    parts = [per_class * (i + 1) // len(betas) - per_class * i // len(betas) for i in range(len(betas))]
    drawn = np.random.default_rng(seed)
    rows = []
    for beta, count in zip(betas, parts):
        alpha = zskd_concentration(weight.detach().double().cpu(), beta=beta, convention=convention)  # type: ignore[arg-type]
        for concentration in alpha.numpy():
            # A Dirichlet's draw is a normalised draw of gammas; a concentration of 0 gives 0.
            gammas = drawn.standard_gamma(concentration, size=(count, len(concentration)))
            none = gammas.sum(1) == 0  # too small for float64: a Dirichlet of small numbers is nearly all one class
            if none.any():
                share = concentration / concentration.sum()
                gammas[none] = np.eye(len(share))[drawn.choice(len(share), int(none.sum()), p=share)]
            rows.append(gammas / gammas.sum(1, keepdims=True))
    targets = torch.tensor(np.concatenate(rows), dtype=torch.float32, device=device)

    def objective(logits: Tensor, rows: Tensor) -> tuple[Tensor, None]:
        return F.cross_entropy(logits / temperature, targets[rows]), None

    search = _Search(steps, lr, augment=False, noise=0.0, bounds=bounds, watch=watch or SilentObserver())
    return search.run(module, len(targets), shape, chunk, generator(seed), device, objective), targets


def check_synthesis(module: nn.Module, shape: tuple[int, ...], key: str, instead: str) -> None:
    """Check that a model's logits follow all numbers of a sample, as samples that are optimised need it.

    Args:
        module: gives logits; it stays as it was, and so does the caller's random state.
        shape: of a sample.
        key: of what asks for samples, which begins the message.
        instead: what one can do, which ends it.

    Raises:
        ConfigError: it makes whole numbers of some, to look them up.
    """
    x = torch.rand((2, *shape), generator=generator(0)).to(_place(module, None))
    with (
        seeded(0, generators_of(module), x.device),
        frozen(module),
        torch.no_grad(),
        suppress(Exception),  # such as an id that no table has
        InputCasts() as casts,
    ):
        module(casts.watched(x))
    if casts.any:
        raise ConfigError(
            f"{key}: samples are made along a gradient, and the model takes numbers of a sample for ids of words or "
            f"categories, which have none; {instead}"
        )


Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""From logits ``[n, k]`` and which samples they are of ``[n]`` to a mean to minimise, and who is done ``[n]``."""


@dataclass
class _Search:
    """Adam on inputs, a chunk at a time."""

    steps: int
    lr: float
    augment: bool
    noise: float
    bounds: Bounds | None
    watch: Observer = field(default_factory=SilentObserver)

    def run(
        self,
        module: nn.Module,
        n: int,
        shape: tuple[int, ...],
        chunk: int,
        rng: torch.Generator,
        device: torch.device,
        objective: Objective,
    ) -> Tensor:
        """``[n, *shape]``."""
        images = []
        with frozen(module):
            for start in range(0, n, chunk):
                rows = torch.arange(start, min(start + chunk, n), device=device)
                begun = start // chunk * self.steps
                images.append(
                    self._optimise(module, rows, shape, rng, objective, (begun, ceil(n / chunk) * self.steps))
                )
        return torch.cat(images)

    def _optimise(
        self,
        module: nn.Module,
        rows: Tensor,
        shape: tuple[int, ...],
        rng: torch.Generator,
        objective: Objective,
        place: tuple[int, int],
    ) -> Tensor:
        low, high = (edge.to(rows.device) for edge in self.bounds or (torch.tensor(-1.0), torch.tensor(1.0)))
        start = torch.rand((len(rows), *shape), generator=rng).to(rows.device)
        x = (low + (high - low) * start).requires_grad_()
        optimizer = torch.optim.Adam([x], self.lr)
        for step in range(1, self.steps + 1):
            logits = module(by_pixel(jitter(x, rng, noise=self.noise) if self.augment else x))
            value, done = objective(logits, rows)
            # Of the sum, so that a sample's steps do not depend on how many there are.
            (x.grad,) = torch.autograd.grad(value * len(rows), x)
            before = x.detach().clone() if done is not None else None
            optimizer.step()
            with torch.no_grad():
                if self.bounds is not None:
                    x.clamp_(low, high)
                if done is not None and before is not None:
                    x.copy_(torch.where(done.view(-1, *[1] * len(shape)), before, x))
            self.watch.step("samples", place[0] + step, place[1], {"objective": value.detach()})
            if done is not None and bool(done.all()):
                break
        self.watch.step("samples", place[0] + self.steps, place[1], {"objective": value.detach()})
        return x.detach()


def _place(module: nn.Module, device: torch.device | str | None) -> torch.device:
    return next(module.parameters()).device if device is None else torch.device(device)
