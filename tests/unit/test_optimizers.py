"""Optimisers: torch's numbers, the same bits in a stack, and steps that can be recorded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedtl.choice import Choice, ConfigError, resolve, validate
from fedtl.clients.contract import ClientUpdate, Gradient, Memory, Probe, State, Vectors
from fedtl.clients.settings import Settings
from fedtl.engine import Engine, Trained
from fedtl.engine.step_tracer import why_not_traced
from fedtl.losses.term import Batch
from fedtl.models.vector import Layout
from fedtl.optimizers import OPTIMIZERS, SCHEDULES, SERVER_OPTIMIZERS
from fedtl.optimizers.chain import Chain
from fedtl.optimizers.local import Optimizer
from fedtl.optimizers.schedules import Schedule
from fedtl.optimizers.server import ServerOptimizer
from fedtl.optimizers.settings import OptimizerSettings
from fedtl.optimizers.stepper import part_scale
from fedtl.optimizers.transforms import RATE, ClipNorm, Momentum, rate_tensor
from tests.parts import ENGINES, NO_LAYOUT, engine_of, federation_of, small_module, train_cohort

LR, STEPS = 0.03, 25

# A value of each option that is not its default, with what it needs beside it. Whether a state is kept is decided
# outside.
OTHER: dict[str, dict[str, Any]] = {
    "lr": {"lr": 0.07},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight_decay": {"weight_decay": 0.2},
    "betas": {"betas": (0.8, 0.95)},
    "eps": {"eps": 0.02},
    "amsgrad": {"amsgrad": True, "betas": (0.5, 0.6)},
    "initial_accumulator": {"initial_accumulator": 0.3},
    "tau": {"tau": 0.02},
    "beta1": {"beta1": 0.7},
    "beta2": {"beta2": 0.8},
    "initial_v": {"initial_v": 0.0},
    "bias_correction": {"bias_correction": "keras"},
}
OUTSIDE = {"name", "keep", "decayed"}


def cases(registry: Any) -> list[Any]:
    """Each optimiser with its defaults, with each option alone, and with all options that go together."""
    params = []
    for name in registry:
        options = sorted(resolve(registry, name, "name").model_fields.keys() - OUTSIDE)
        params.append(pytest.param(name, None, id=f"{name}"))
        params += [pytest.param(name, option, id=f"{name}-{option}") for option in options]
    return params


def optimizer(name: str, **options: Any) -> Optimizer:
    kind: type[Optimizer] = resolve(OPTIMIZERS, name, "name")
    return validate(kind, {"name": name, **options}, "strategy.optimizer")


def other(option: str | None) -> dict[str, Any]:
    return OTHER[option] if option else {}


def gradients(steps: int, *shape: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Random ones of changing size, so that means of squares fall as well as rise."""
    generator = torch.Generator().manual_seed(0)
    return [(1 + 4 * (t % 5 == 0)) * torch.randn(*shape, generator=generator, dtype=dtype) for t in range(steps)]


def path(chain: Chain, w: Tensor, grads: list[Tensor]) -> list[Tensor]:
    state, weights = chain.init(w), []
    for g in grads:
        w, state = chain.step(g, state, w)
        weights.append(w)
    return weights


# Against other code.


class Yogi(torch.optim.Optimizer):
    """Zaheer et al. 2018, Algorithm 2, with Adam's bias correction; torch has none."""

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        initial_accumulator_value: float,
    ) -> None:
        super().__init__(params, {"lr": lr})
        self.betas, self.eps, self.decay, self.first = betas, eps, weight_decay, initial_accumulator_value
        self.t, self.m, self.v = 0, 0.0, initial_accumulator_value

    def step(self, closure: Any = None) -> None:
        (w,) = self.param_groups[0]["params"]
        g, (b1, b2) = w.grad + self.decay * w.detach(), self.betas
        self.t += 1
        self.m = b1 * self.m + (1 - b1) * g
        self.v = self.v - (1 - b2) * torch.sign(self.v - g**2) * g**2
        m, v = self.m / (1 - b1**self.t), self.v / (1 - b2**self.t)
        w.data -= self.param_groups[0]["lr"] * m / (v.sqrt() + self.eps)


PEERS: dict[str, Any] = {kind.lower(): getattr(torch.optim, kind) for kind in torch.optim.__all__ if kind[0].isupper()}
PEERS["yogi"] = Yogi


def peer(chosen: Optimizer, w: Tensor) -> torch.optim.Optimizer:
    """The same optimiser of torch's, with the same options by name."""
    options = chosen.model_dump(exclude=OUTSIDE | {"lr"})
    if "initial_accumulator" in options:
        options["initial_accumulator_value"] = options.pop("initial_accumulator")
    optimizer: torch.optim.Optimizer = PEERS[chosen.name]([w], lr=chosen.rate(LR), **options)
    return optimizer


@pytest.mark.parametrize(("name", "option"), cases(OPTIMIZERS))
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_torchs(name: str, option: str | None, decay: float) -> None:
    chosen = optimizer(name, **{"weight_decay": decay} | other(option))
    grads, w = gradients(STEPS, 11), torch.linspace(-1, 1, 11, dtype=torch.float64)
    theirs = nn.Parameter(w.clone())
    reference = peer(chosen, theirs)
    for g, ours in zip(grads, path(chosen.chain(LR), w, grads)):
        theirs.grad = g.clone()
        reference.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "option"), [case for case in cases(OPTIMIZERS) if case.values[1]])
def test_every_option_has_an_effect(name: str, option: str) -> None:
    grads, w = gradients(STEPS, 11), torch.linspace(-1, 1, 11, dtype=torch.float64)
    options = OTHER[option]
    without = {key: value for key, value in options.items() if key != option}
    ends = [path(optimizer(name, **each).chain(LR), w, grads)[-1] for each in (options, without)]
    assert not torch.allclose(*ends, rtol=1e-9)


@pytest.mark.parametrize("size", [0.0, 0.3, 2.0, 1e4])
def test_clipping_is_torchs(size: float) -> None:
    g = size * gradients(1, 11)[0]
    theirs = nn.Parameter(torch.zeros_like(g))
    theirs.grad = g.clone()
    torch.nn.utils.clip_grad_norm_([theirs], 1.5)
    ours, _ = ClipNorm(1.5).update(g, {}, torch.zeros_like(g))
    torch.testing.assert_close(ours, theirs.grad, rtol=1e-12, atol=0)


def test_two_links_may_not_remember_one_thing() -> None:
    with pytest.raises(ValueError, match="two links of an optimiser remember 'm'"):
        Chain((Momentum(0.9), Momentum(0.5))).init(torch.zeros(3))


# In a stack.


def clipped(norm: float, chain: Chain) -> Chain:
    return Chain((ClipNorm(norm), *chain.links))


@pytest.mark.parametrize(("name", "option"), cases(OPTIMIZERS))
@pytest.mark.parametrize("scaled", [False, True])
def test_a_stack_gives_each_clients_bits(name: str, option: str | None, scaled: bool) -> None:
    """For 40 clients: vectorised loops and what is left over after them see other numbers than with one."""
    C, P = 40, 37
    chain = clipped(4.0, optimizer(name, **other(option)).chain(LR))
    scale = torch.linspace(0.5, 2, P) if scaled else None
    grads, w = gradients(STEPS, C, P, dtype=torch.float32), torch.linspace(-1, 1, C * P).view(C, P)
    state = {**chain.init(w), RATE: rate_tensor(w, LR, scale)}
    each = [{**chain.init(row), RATE: rate_tensor(row, LR, scale)} for row in w]
    rows = list(w)
    for g in grads:
        w, state = chain.step(g, state, w)
        for i, row in enumerate(rows):
            rows[i], each[i] = chain.step(g[i], each[i], row)
    assert torch.equal(w, torch.stack(rows))
    assert state.keys() == each[0].keys() == chain.init(w).keys() | {RATE}
    for key, tensor in state.items():
        assert torch.equal(tensor, torch.stack([own[key] for own in each])), key


@pytest.mark.parametrize(("name", "option"), cases(OPTIMIZERS))
def test_a_rate_in_the_state_stands_for_the_number(name: str, option: str | None) -> None:
    chosen = optimizer(name, **other(option))
    grads, w = gradients(STEPS, 5, 11, dtype=torch.float32), torch.linspace(-1, 1, 55).view(5, 11)
    chain = chosen.chain(LR)
    state, at = {**chain.init(w), RATE: rate_tensor(w, chosen.rate(LR))}, w
    for g in grads:
        at, state = chain.step(g, state, at)
    assert torch.allclose(at, path(chain, w, grads)[-1], rtol=1e-5, atol=1e-6)
    state[RATE] = rate_tensor(w, 0.0)
    assert torch.equal(chain.step(grads[0], state, at)[0], at)


def test_parts_learn_at_their_own_rates_as_in_torch() -> None:
    module = small_module()
    layout = Layout.of(module)
    scale = part_scale(layout, {"3": 10.0})
    assert scale is not None
    chosen = optimizer("adamw")
    w = layout.flatten(module)[: layout.parameters]
    chain, groups = (
        chosen.chain(LR),
        [{"params": module[3].parameters(), "lr": 10 * LR}, {"params": module[1].parameters()}],
    )
    reference = torch.optim.AdamW(groups, lr=LR, weight_decay=chosen.weight_decay)
    state = {**chain.init(w), RATE: rate_tensor(w, LR, scale)}
    for g in gradients(5, layout.parameters, dtype=torch.float32):
        w, state = chain.step(g, state, w)
        for name, view in layout.views(g).items():
            module.get_parameter(name).grad = view.clone()
        reference.step()
        torch.testing.assert_close(w, layout.flatten(module)[: layout.parameters], rtol=1e-5, atol=1e-5)


# Recorded.


class Moves(ClientUpdate[Settings]):
    """Local training by an optimiser, at a rate that the state has."""

    def __init__(self, settings: Settings, chain: Chain) -> None:
        super().__init__(settings, NO_LAYOUT)
        self.chain, self.rate = chain, LR

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        w = received["w"]
        return {"w": w, **self.chain.init(w), RATE: rate_tensor(w, self.rate)}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        w, state = self.chain.step(grad(state["w"], batch), state, state["w"])
        return {**state, "w": w}


def moves(name: str, option: str | None = None) -> Moves:
    chain = clipped(0.5, optimizer(name, **other(option)).chain(LR))
    return Moves(Settings(name="moves", lr=LR, batch_size=4, local_epochs=2), chain)


def uploads(engine: Engine, update: Moves, w: Tensor) -> list[Tensor]:
    outcomes = train_cohort(engine, update, w, [0, 1, 2], [{}, {}, {}], 1)
    assert all(isinstance(outcome, Trained) for outcome in outcomes), outcomes
    return [outcome.uploads["w"] for outcome in outcomes]  # type: ignore[union-attr,misc]


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(("name", "option"), cases(OPTIMIZERS))
def test_a_step_can_be_recorded(name: str, option: str | None, stacked: bool) -> None:
    engine = engine_of(federation_of([8, 8, 8]), small_module(), ENGINES["stacked" if stacked else "one by one"])
    assert why_not_traced(engine.task, moves(name, option), stacked) is None


@pytest.mark.parametrize("kind", [kind for kind in ENGINES if kind != "one by one"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_engine_moves_alike_and_another_rate_needs_no_new_recording(name: str, kind: str) -> None:
    engines = [
        engine_of(federation_of([8, 12, 8]), small_module(), made) for made in (ENGINES["one by one"], ENGINES[kind])
    ]
    update, recordings, ends = moves(name), [], []
    w = engines[0].task.layout.flatten(engines[0].task.module)
    for rate in (LR, LR / 10):
        update.rate = rate
        plain, ours = (uploads(engine, update, w) for engine in engines)
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
        ends.append(ours[0])
        recordings.append(dict(engines[1].tracer.programs) if engines[1].tracer else {})
    assert float((ends[1] - w).norm()) < 0.5 * float((ends[0] - w).norm())
    assert recordings[0] == recordings[1]
    assert bool(recordings[0]) == kind.endswith("traced")
    assert None not in recordings[0].values()


# Schedules.

ROUNDS, WARMUP = 30, 6
SCHEDULE_PEERS: dict[str, tuple[dict[str, Any], Callable[[torch.optim.Optimizer, int], Any]]] = {
    "constant": ({}, lambda o, left: torch.optim.lr_scheduler.ConstantLR(o, factor=1.0)),
    "step": ({"every": 7, "gamma": 0.3}, lambda o, left: torch.optim.lr_scheduler.StepLR(o, 7, 0.3)),
    "exponential": ({"gamma": 0.9}, lambda o, left: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)),
    "cosine": ({"minimum": 0.1}, lambda o, left: torch.optim.lr_scheduler.CosineAnnealingLR(o, left, 0.1)),
    "cyclical": (
        {"every": 4, "minimum": 0.2, "begin": 5},
        lambda o, left: torch.optim.lr_scheduler.LambdaLR(
            o, lambda past: 1.0 if past < 5 else [0.8, 0.6, 0.4, 0.2][(past - 5) % 4]
        ),
    ),
}


def schedule(name: str, **options: Any) -> Schedule:
    kind: type[Schedule] = resolve(SCHEDULES, name, "name")
    return validate(kind, {"name": name, **options}, "strategy.schedule")


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, WARMUP])
def test_schedules_are_torchs(name: str, warmup: int) -> None:
    options, made = SCHEDULE_PEERS[name]
    warm = {"warmup": warmup, "warmup_from": 0.25} if warmup else {}
    ours = schedule(name, **options, **warm)
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = made(reference, ROUNDS - warmup)
    if warmup:
        linear = torch.optim.lr_scheduler.LinearLR(reference, 0.25, total_iters=warmup)
        # Made last, so that it does not begin with the factor of the other.
        reference.param_groups[0]["lr"] = reference.param_groups[0]["initial_lr"] = 1.0
        scheduler = torch.optim.lr_scheduler.SequentialLR(
            reference, [linear, made(reference, ROUNDS - warmup)], [warmup]
        )
    factors = []
    for round in range(1, ROUNDS + 1):
        assert ours.factor(round, ROUNDS) == pytest.approx(reference.param_groups[0]["lr"], rel=1e-9), round
        factors.append(ours.factor(round, ROUNDS))
        reference.step()
        scheduler.step()
    assert ours.varies == (len(set(factors)) > 1)


def test_a_warm_up_begins_with_an_even_share() -> None:
    factors = [schedule("constant", warmup=4).factor(round, 10) for round in range(1, 7)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_a_cosine_stays_at_its_minimum() -> None:
    cosine = schedule("cosine", rounds=10, minimum=0.2)
    assert cosine.factor(6, 100) == pytest.approx(0.6)
    assert [cosine.factor(round, 100) for round in (11, 12, 100)] == pytest.approx([0.2] * 3)


# At the server.

Vector = NDArray[np.float32]


def as_published(name: str, o: Any, w: Vector, delta: Vector, state: dict[str, Vector], round: int) -> Vector:
    """One round of Algorithm 2 of Reddi et al. 2021, or of FedAvgM, in NumPy's float32."""
    if name == "momentum":
        state["m"] = o.momentum * state["m"] + delta if "m" in state else delta
        return w + np.float32(o.lr) * (delta + o.momentum * state["m"] if o.nesterov else state["m"])
    v = state.get("v", np.full_like(w, o.tau**2 if o.initial_v is None else o.initial_v))
    square, rate = delta * delta, o.lr
    state["m"] = m = o.beta1 * state.get("m", np.zeros_like(w)) + (1 - o.beta1) * delta
    if name == "adagrad":
        v = v + square
    elif name == "yogi":
        v = v - (1 - o.beta2) * square * np.sign(v - square)
    else:
        v = o.beta2 * v + (1 - o.beta2) * square
    if name != "adagrad" and o.bias_correction != "none":
        rate = o.lr * math.sqrt(1 - o.beta2**round) / (1 - o.beta1**round)
    state["v"] = v
    return w + rate * m / (np.sqrt(v) + o.tau)


@pytest.mark.parametrize(("name", "option"), cases(SERVER_OPTIMIZERS))
def test_a_servers_rounds_are_the_published_ones_to_the_bit(name: str, option: str | None) -> None:
    options = {"name": name, **({"momentum": 0.6} if option == "momentum" else other(option))}
    ours: ServerOptimizer = validate(resolve(SERVER_OPTIMIZERS, name, "name"), options, "strategy.server")
    rng = np.random.default_rng(0)
    published = rng.normal(size=1003).astype(np.float32)
    state, published_state = {"w": torch.from_numpy(published.copy())}, dict[str, Vector]()
    for round in range(1, 21):
        mean = (published + rng.normal(scale=0.1 * round, size=len(published))).astype(np.float32)
        state = ours.step(state, torch.from_numpy(mean), round)
        published = as_published(name, ours, published, mean - published, published_state, round)
        assert published.dtype == np.float32
        assert state["w"].numpy().tobytes() == published.tobytes(), round
        assert state.keys() <= {"w", "m", "v", "steps"}
        for key in state.keys() - {"w", "steps"}:
            assert state[key].numpy().tobytes() == published_state[key].tobytes(), round
    without = {key: value for key, value in options.items() if key != option}
    assert option is None or ours != validate(type(ours), without, "strategy.server")


@pytest.mark.parametrize("name", ["adam", "yogi"])
def test_a_servers_correction_counts_the_optimisers_own_steps(name: str) -> None:
    """Where it begins in round 21, its first step is that of an optimiser that begins with the run."""
    options = {"name": name, "initial_v": 0.0, "bias_correction": "keras"}
    ours: ServerOptimizer = validate(resolve(SERVER_OPTIMIZERS, name, "name"), options, "strategy.server")
    generator = torch.Generator().manual_seed(0)
    w, means = torch.zeros(50), torch.randn(4, 50, generator=generator)
    first, late = {"w": w}, {"w": w, "other": w}
    for step, mean in enumerate(means, 1):
        first, late = ours.step(first, mean, step), ours.step(late, mean, 20 + step)
        assert torch.equal(first["w"], late["w"]), step
    # A checkpoint of an earlier version has no number of steps, and its rounds go on as they began.
    older = {key: value for key, value in first.items() if key != "steps"}
    again = ours.step(older, means[0], 5)
    assert torch.equal(again["w"], ours.step(first, means[0], 5)["w"])
    assert torch.equal(again["steps"], torch.tensor([5.0]))
    # Moments that are gone, as with a model that began anew, are counted anew.
    anew = ours.step({"w": w, "steps": torch.tensor([9.0])}, means[0], 10)
    assert torch.equal(anew["w"], ours.step({"w": w}, means[0], 1)["w"])


# Settings.


class Table(OptimizerSettings, Choice):
    pass


def read(**table: Any) -> Table:
    return validate(Table, {"name": "x", **table}, "strategy")


def test_settings_are_tables_or_names_and_survive_being_written() -> None:
    settings = read(
        optimizer={"name": "adam", "betas": [0.8, 0.9], "keep": True},
        schedule="cosine",
        clip_norm=1,
        lr_scale={"head": 10},
    )
    assert (settings.optimizer.name, settings.optimizer.rate(0.1), settings.optimizer.keep) == ("adam", 0.1, True)
    assert (settings.schedule.name, settings.clip_norm, settings.lr_scale) == ("cosine", 1.0, {"head": 10.0})
    assert read(**settings.model_dump(mode="json", exclude={"name"})) == settings
    plain = read()
    assert (plain.optimizer.name, plain.schedule.varies, plain.clip_norm, plain.lr_scale) == ("sgd", False, None, {})
    assert read(optimizer="sgd", schedule=plain.schedule) == plain


class NoOptimizer(Choice):
    pass


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"optimizer": "adan"}, "strategy.optimizer.name = 'adan' is unknown: did you mean 'adam'?"),
        ({"optimizer": 3}, "strategy.optimizer = 3: give a table, as { name = 'adam' }, or a name"),
        (
            {"optimizer": {"name": "adam", "beta": 1}},
            "strategy.optimizer.beta is not a key here: did you mean 'betas'?",
        ),
        (
            {"optimizer": {"name": "adam", "betas": [0.9, 1.0]}},
            "strategy.optimizer.betas.1 = 1.0: should be less than 1",
        ),
        ({"optimizer": {"name": "sgd", "lr": 0}}, "strategy.optimizer.lr = 0: should be greater than 0"),
        (
            {"optimizer": {"name": "sgd", "dampening": 0.1}},
            "strategy.optimizer: dampening = 0.1 damps momentum: give momentum, as 0.9, or leave it out",
        ),
        (
            {"optimizer": {"name": "sgd", "nesterov": True}},
            "strategy.optimizer: nesterov = true needs momentum, as 0.9, and no dampening",
        ),
        (
            {"optimizer": {"name": f"{__name__}:NoOptimizer"}},
            f"strategy.optimizer.name = '{__name__}:NoOptimizer': "
            "it is no subclass of fedtl.optimizers.local.Optimizer",
        ),
        ({"schedule": "cosin"}, "strategy.schedule.name = 'cosin' is unknown: did you mean 'cosine'?"),
        ({"schedule": {"name": "step"}}, "strategy.schedule.every is missing"),
        (
            {"schedule": {"name": "constant", "warmup_from": 0.5}},
            "strategy.schedule: warmup_from = 0.5 needs warmup, the number of rounds, as 5",
        ),
        ({"clip_norm": 0}, "strategy.clip_norm = 0: should be greater than 0"),
        ({"lr_scale": 3}, "strategy.lr_scale = 3: should be a table of parts and factors, as { head = 10.0 }"),
        (
            {"lr_scale": {"head": True}},
            "strategy.lr_scale = {'head': True}: the factor of 'head' should be a number greater than 0, as 10.0",
        ),
        (
            {"lr_scale": {"head": 0}},
            "strategy.lr_scale = {'head': 0}: the factor of 'head' should be a number greater than 0, as 10.0; "
            "to leave a part as it is, name it in strategy.frozen",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(**table)
    assert str(error.value) == message


def test_parts_have_factors() -> None:
    module = small_module()
    layout = Layout.of(module)
    assert part_scale(layout, {}) is None
    scale = part_scale(layout, {"head": 10.0, "1": 0.5})
    assert scale is not None
    factors = {name: set(view.flatten().tolist()) for name, view in layout.views(scale).items()}
    assert factors == {"1.weight": {0.5}, "1.bias": {0.5}, "3.weight": {10.0}, "3.bias": {10.0}}
    assert part_scale(layout, {"head": 2.0}).unique().tolist() == [1.0, 2.0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("lr_scale", "message"),
    [
        ({"tail": 2.0}, "strategy.lr_scale.tail = 2: the model has no part 'tail' with parameters; it has 'head'"),
        ({"2": 2.0}, "strategy.lr_scale.2 = 2: the model has no part '2' with parameters"),
        (
            {"1": 2.0},
            "strategy.lr_scale.1 = 2: no parameter of the part '1' trains: strategy.frozen or model.adapter freezes it",
        ),
        (
            {"head": 2.0, "3": 3.0},
            "strategy.lr_scale: 'head' and '3' have a parameter in common; leave one out",
        ),
    ],
)
def test_parts_that_cannot_have_a_factor(lr_scale: dict[str, float], message: str) -> None:
    module = small_module()
    module.get_submodule("1").requires_grad_(False)
    with pytest.raises(ConfigError) as error:
        part_scale(Layout.of(module), lr_scale)
    assert str(error.value).startswith(message)
