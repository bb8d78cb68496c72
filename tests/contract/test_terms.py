"""What every term owes: the same training under every engine, its own needs named, no trace where its weight is 0."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch

from fedtl.assemble.parts import make_tasks
from fedtl.choice import ConfigError
from fedtl.config.read import build
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.engine import Engine, Failed, Trained
from fedtl.engine.choice import depends_on_stack
from fedtl.engine.module import ClientObjective
from fedtl.engine.task import Outcome, RoundContext, Task
from fedtl.losses.batch import Batch
from fedtl.losses.objective import NEEDS, SAMPLES, needs_of, read_objective
from fedtl.losses.term import Term, TermContext
from fedtl.models import build_model
from fedtl.models.head import features_and_logits
from fedtl.models.vector import Layout
from fedtl.optimizers.stepper import part_scale
from tests.parts import ENGINES, OF_CLASSES, train_cohort, update_of

# A row for each term that cannot do with its defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    # With these tests' step size their training would run away, and rounding with it.
    "barlow_twins": {"projector": [16, 16]},
    "vicreg": {"variant": "authors"},
}

DATA = {
    "name": "digits",
    "clients": 3,
    "samples": 150,
    "target": {"name": "digits", "samples": 120, "transform": {"invert": True}},
    "public": {"name": "digits", "samples": 40},
}


def tables(*terms: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": "terms",
        "rounds": 2,
        "data": DATA,
        "model": {"name": "mlp", "hidden": [12]},
        "strategy": {"name": "fedavg", "lr": 0.05, "local_steps": 3, "batch_size": 8},
        "objective": list(terms),
        "views": {},
        "replay": {"classes": "all", "per_class": 4, "steps": 3, "after": 0},
        "simulation": {"grid": "in-process"},
        **more,
    }


@functools.cache
def federation() -> Federation:
    return federate(build(tables()).data, 0)


def with_term(name: str, weight: float = 0.5) -> dict[str, Any]:
    return tables({"term": "cross_entropy"}, {"term": name, "name": "it", "weight": weight, **OPTIONS.get(name, {})})


def trained(make: Callable[[Task], Engine], config: dict[str, Any], rounds: int = 2) -> list[Outcome]:
    """All clients' outcomes of the last of some rounds, in which the first client's model stands for the mean."""
    (task,) = make_tasks(build(config), federation())
    engine, update = make(task), update_of("fedavg", lr=0.05, local_steps=3, batch_size=8)
    w = task.layout.flatten(task.module)
    moved = w + 0.01 * torch.randn(len(w), generator=torch.Generator().manual_seed(1))
    vectors: dict[str, torch.Tensor] = {"model:phase": moved}
    memories: list[Any] = [{}] * 3
    outcomes: list[Outcome] = []
    for round in range(1, rounds + 1):
        outcomes = train_cohort(engine, update, w, range(3), memories, round, RoundContext(0.6, vectors))
        for outcome in outcomes:
            assert isinstance(outcome, Trained), outcome
        memories = [outcome.memory for outcome in outcomes]  # type: ignore[union-attr]
        w = outcomes[0].uploads.get("w")  # type: ignore[union-attr, assignment]
        for i, statistic in enumerate(task.objective.statistics):
            total = sum(outcome.statistics[i] for outcome in outcomes)  # type: ignore[union-attr, misc]
            vectors[f"statistic:{statistic.name}"] = statistic.merge(None, total).float()
    return outcomes


def upload_of(outcome: Outcome) -> torch.Tensor:
    assert isinstance(outcome, Trained)
    assert outcome.uploads.get("w") is not None
    return outcome.uploads.get("w")


@pytest.mark.parametrize("name", OF_CLASSES)
def test_every_engine_trains_the_same(name: str) -> None:
    results = {kind: trained(make, with_term(name)) for kind, make in ENGINES.items()}
    reference = results["one by one"]
    for kind, outcomes in results.items():
        for a, b in zip(reference, outcomes):
            tell = functools.partial("{}: {}".format, kind)
            torch.testing.assert_close(upload_of(b), upload_of(a), rtol=1e-3, atol=2e-5, msg=tell)
            assert b.losses == pytest.approx(a.losses, rel=1e-3, abs=1e-5)  # type: ignore[union-attr]
            assert not torch.tensor(b.losses).isnan().any()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("name", sorted(set(OF_CLASSES) - {"cross_entropy"}))
def test_a_term_of_weight_zero_changes_no_bit_and_is_measured(name: str, kind: str) -> None:
    for alone, beside in zip(*(trained(ENGINES[kind], config) for config in (tables(), with_term(name, weight=0)))):
        a, b = upload_of(alone), upload_of(beside)
        b = b[: len(a)]  # the model comes before what terms bring along
        same = torch.equal(a, b) and alone.losses[0] == beside.losses[0]  # type: ignore[union-attr]
        assert same or ("stacked" in kind and bits_depend_on_a_clients_place())
        torch.testing.assert_close(a, b)
        assert torch.tensor(beside.losses[1]).isfinite()  # type: ignore[union-attr]


def bits_depend_on_a_clients_place() -> bool:
    """In a stack of this model on this processor; such a stack is not chosen.

    What terms bring along lies between one client's numbers and the next one's.
    """
    (task,) = make_tasks(build(tables()), federation())
    return depends_on_stack(task, update_of("fedavg", lr=0.05, local_steps=3, batch_size=8))


@pytest.mark.parametrize("name", OF_CLASSES)
def test_what_a_term_needs_is_asked_for_when_the_config_is_read(name: str) -> None:
    (term,) = read_objective([{"term": name, **OPTIONS.get(name, {})}])
    needs = needs_of(term)
    assert needs & SAMPLES
    assert needs <= NEEDS.keys()
    plain = {**with_term(name), "data": {"name": "digits", "clients": 3}}
    del plain["views"], plain["replay"]
    missing = needs & {"target", "views", "public", "replay"}
    if missing:
        with pytest.raises(ConfigError, match=r"^objective\[1\]: the term 'it' needs .*; .*(set|add) .*"):
            build(plain)
    else:
        build(plain)


def test_the_sentence_names_the_term_and_what_to_set() -> None:
    with pytest.raises(ConfigError) as caught:
        build({**tables({"term": "mmd"}), "data": {"name": "digits", "clients": 3}})
    assert str(caught.value) == (
        "objective[0]: the term 'mmd' needs target data; client data have none: set data.target, or "
        "data.labelled_fraction below 1"
    )


@pytest.mark.parametrize("name", OF_CLASSES)
def test_the_models_first_numbers_do_not_depend_on_terms(name: str) -> None:
    config = build(with_term(name))
    task = make_tasks(config, federation())[0]
    plain = build_model(config.model, federation().shape, 10, 0)
    expected = Layout.of(plain).flatten(plain)
    assert torch.equal(task.layout.flatten(task.module)[: len(expected)], expected)


def test_each_stream_goes_through_the_model_once_however_many_terms_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("mmd", "coral", "cmd", "dann", "entropy", "mcc", "bnm", "simclr", "vicreg", "distillation", "moon")
    rows = [{"term": "cross_entropy"}, *({"term": name} for name in names)]
    (task,) = make_tasks(build(tables(*rows)), federation())
    calls: list[tuple[bool, int]] = []
    forward = type(task.module.model).forward  # type: ignore[union-attr]

    def counted(self: torch.nn.Module, x: torch.Tensor) -> Any:
        calls.append((torch.is_grad_enabled(), len(x)))
        return forward(self, x)  # type: ignore[operator]

    monkeypatch.setattr(type(task.module.model), "forward", counted)  # type: ignore[union-attr]
    engine = ENGINES["one by one"](task)
    (outcome,) = train_cohort(
        engine,
        update_of("fedavg", lr=0.05, local_steps=1, batch_size=8),
        task.layout.flatten(task.module),
        [0],
        [{}],
        1,
    )
    upload_of(outcome)
    # Source, target and two views with gradient; the source under the received and under the previous model without.
    assert sorted(calls) == [(False, 8)] * 2 + [(True, 8)] * 4


class Peeps(Term):
    """An own term that tries to learn from labels that nobody has."""

    needs: ClassVar[frozenset[str]] = frozenset({"unlabelled"})

    def value(self, context: TermContext) -> torch.Tensor:
        assert not context.stream("unlabelled").logits.isnan().any()
        return torch.nn.functional.cross_entropy(context.logits, context.labels)


def test_labels_of_unlabelled_samples_reach_no_term() -> None:
    config = tables({"term": "tests.contract.test_terms:Peeps"})
    config["data"] = {"name": "digits", "clients": 3, "samples": 150, "labelled_fraction": 0}
    read = build(config)
    (task,) = make_tasks(read, federate(read.data, 0))
    engine, update = ENGINES["one by one"](task), update_of("fedavg", lr=0.05, local_steps=1, batch_size=8)
    (outcome,) = train_cohort(engine, update, task.layout.flatten(task.module), [0], [{}], 1)
    assert isinstance(outcome, Failed)
    assert "labels of unlabelled samples" in outcome.message


@pytest.mark.parametrize("name", ["coral", "mmd", "joint_mmd", "local_mmd", "cmd", "dann", "bnm", "mcc", "associative"])
def test_a_last_mini_batch_of_one_sample_is_no_failure(name: str) -> None:
    estimator = {"estimator": "linear"} if name == "mmd" else {}
    config = tables({"term": "cross_entropy"}, {"term": name, **estimator, **OPTIONS.get(name, {})})
    config["strategy"] = {"name": "fedavg", "lr": 0.05, "local_epochs": 1, "batch_size": 8}
    config["data"] = {**DATA, "samples": 132, "clients": 3}
    read = build(config)
    federation = federate(read.data, 0)
    assert set(federation.train.sizes % 8) & {1}
    (task,) = make_tasks(read, federation)
    update = update_of("fedavg", lr=0.05, local_epochs=1, batch_size=8)
    outcomes = train_cohort(
        ENGINES["one by one"](task), update, task.layout.flatten(task.module), range(3), [{}] * 3, 1
    )
    assert all(upload_of(outcome).isfinite().all() for outcome in outcomes)


def test_cdans_model_ascends_through_the_entropy_weights_too() -> None:
    """With λ = 1 its gradient is minus that of the discriminator's loss, weights and all."""
    (task,) = make_tasks(build(tables({"term": "cdan", "lam": 1.0})), federation())
    x, y = task.samples.batch(federation().train[0][:8])
    target, _ = task.samples.batch(federation().target.train[0][:8], "target")  # type: ignore[union-attr]
    model, judge = task.module.model, task.module.extras["cdan_discriminator"]  # type: ignore[union-attr, index]
    parameters = [*model.parameters()]  # type: ignore[operator]
    batch = Batch(x, y, None, {"target": target})
    total, _ = ClientObjective(task.module, task.layout, task.objective)(
        batch, {"progress": torch.tensor(0.5)}, lambda: None
    )
    gradients = torch.autograd.grad(total, parameters)
    plain = torch.zeros(())
    for stream, label in ((x, 0.0), (target, 1.0)):
        features, logits = features_and_logits(model, stream)  # type: ignore[arg-type]
        p = logits.softmax(1)
        domain_logits = judge((features[:, :, None] * p[:, None]).flatten(1))[:, 0]  # type: ignore[operator]
        weight = 1 + torch.exp((p * p.log()).sum(1))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            domain_logits, torch.full((8,), label), reduction="none"
        )
        plain = plain + (weight * loss).mean()
    for a, b in zip(gradients, torch.autograd.grad(plain, parameters)):
        torch.testing.assert_close(a, -b, rtol=1e-4, atol=1e-6)


def test_two_terms_modules_have_two_names() -> None:
    """What is no letter or digit of a term's name is _ in its modules' names."""

    def task_of(*names: str) -> Task:
        terms = [{"term": "dann", "name": name} for name in names]
        return make_tasks(build(tables({"term": "cross_entropy"}, *terms)), federation())[0]

    assert {*dict(task_of("a b", "a c").module.extras.named_children())} == {"a_b_discriminator", "a_c_discriminator"}  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"^the term 'a_b': its module 'a_b_discriminator' has the name of another"):
        task_of("a b", "a_b")


def test_a_terms_module_learns_at_its_own_rate() -> None:
    """By the name under which it may be frozen, or stay at clients."""
    config = tables({"term": "cross_entropy"}, {"term": "dann", "weight": 0.1})
    config["strategy"] = {**config["strategy"], "lr_scale": {"dann_discriminator": 10.0}}
    (task,) = make_tasks(build(config), federation())
    scale = part_scale(task.layout, build(config).strategy.lr_scale)  # type: ignore[attr-defined]
    assert scale is not None
    for name, part in task.layout.views(scale).items():
        assert part.unique().tolist() == [10.0 if name.startswith("extras.") else 1.0]
    frozen = {**config["strategy"], "frozen": ["dann_discriminator"]}
    (task,) = make_tasks(build({**config, "strategy": frozen}), federation())
    with pytest.raises(ConfigError, match=r"no parameter of the part 'dann_discriminator' trains"):
        part_scale(task.layout, {"dann_discriminator": 10.0})
