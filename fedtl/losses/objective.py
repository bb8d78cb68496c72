"""The local objective: a weighted sum of terms, over one forward pass per stream of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedtl.choice import ConfigError, Registry, part_type, validate
from fedtl.losses.aggregate import ClientAggregate
from fedtl.losses.context import TermContext
from fedtl.losses.term import Term, module_name

TERMS: Registry = {
    "adabn": "fedtl.losses.terms.unlabelled:AdaBN",
    "adda": "fedtl.losses.terms.adversarial:ADDA",
    "associative": "fedtl.losses.terms.discrepancy:Associative",
    "absolute_error": "fedtl.losses.terms.outcomes:AbsoluteError",
    "barlow_twins": "fedtl.losses.terms.self_supervised:BarlowTwins",
    "binary_cross_entropy": "fedtl.losses.terms.classification:BinaryCrossEntropy",
    "bnm": "fedtl.losses.terms.unlabelled:BNM",
    "cdan": "fedtl.losses.terms.adversarial:CDAN",
    "class_logits": "fedtl.losses.terms.prototypes:ClassLogits",
    "cmd": "fedtl.losses.terms.discrepancy:CMD",
    "consensus": "fedtl.losses.terms.public:Consensus",
    "coral": "fedtl.losses.terms.discrepancy:CORAL",
    "cox": "fedtl.losses.terms.outcomes:Cox",
    "cross_entropy": "fedtl.losses.terms.classification:CrossEntropy",
    "dann": "fedtl.losses.terms.adversarial:DANN",
    "distillation": "fedtl.losses.terms.teaching:Distillation",
    "entropy": "fedtl.losses.terms.unlabelled:Entropy",
    "huber": "fedtl.losses.terms.outcomes:Huber",
    "invariant_spreading": "fedtl.losses.terms.self_supervised:InvariantSpreading",
    "joint_mmd": "fedtl.losses.terms.discrepancy:JointMMD",
    "l2": "fedtl.losses.terms.classification:L2",
    "l2_sp": "fedtl.losses.terms.drift:L2SP",
    "local_mmd": "fedtl.losses.terms.discrepancy:LocalMMD",
    "mcc": "fedtl.losses.terms.unlabelled:MCC",
    "mmd": "fedtl.losses.terms.discrepancy:MMD",
    "moon": "fedtl.losses.terms.drift:Moon",
    "mutual": "fedtl.losses.terms.teaching:Mutual",
    "not_true_distillation": "fedtl.losses.terms.teaching:NotTrueDistillation",
    "prototype": "fedtl.losses.terms.prototypes:Prototype",
    "proximal": "fedtl.losses.terms.drift:Proximal",
    "remote_cmd": "fedtl.losses.terms.remote:RemoteCMD",
    "remote_coral": "fedtl.losses.terms.remote:RemoteCORAL",
    "replay": "fedtl.losses.terms.replay:Replayed",
    "rpl": "fedtl.losses.terms.unlabelled:RobustPseudoLabels",
    "simclr": "fedtl.losses.terms.self_supervised:SimCLR",
    "squared_error": "fedtl.losses.terms.outcomes:SquaredError",
    "token_cross_entropy": "fedtl.losses.terms.outcomes:TokenCrossEntropy",
    "vicreg": "fedtl.losses.terms.self_supervised:VICReg",
}

NEEDS: Mapping[str, str] = {
    "source": "labelled data of its own",
    "target": "target data",
    "samples": "any samples",
    "unlabelled": "any samples, as unlabelled ones",
    "views": "random views of images",
    "public": "public data",
    "replay": "synthesised samples",
    "features": "the head's inputs",
    "progress": "the round's progress",
    "model:global": "the model that it received",
    "model:previous": "the model that it had trained when it last took part",
    "model:before": "the model that it had trained when it last took part, or the run's first one",
    "model:phase": "the global model when the phase began",
    "model:initial": "the run's first model",
}
"""What a term may need, and what that is at a client. A statistic of its own it need not name."""

SAMPLES = frozenset({"source", "target", "samples", "unlabelled", "views", "public", "replay"})
"""Needs that are samples to look at."""

ALWAYS = frozenset({"samples", "unlabelled"})
"""Of these, what every client has."""


def read_objective(
    tables: Sequence[Mapping[str, Any]], key: str = "objective", default: str = "cross_entropy"
) -> tuple[Term, ...]:
    """Read ``[[objective]]`` tables; none at all means one term alone, the task's."""
    terms = []
    for i, table in enumerate(tables or [{"term": default}]):
        where = f"{key}[{i}]"
        term = validate(part_type(Term, TERMS, table.get("term"), f"{where}.term"), table, where)
        for need in sorted(needs_of(term) - NEEDS.keys()):
            raise ConfigError(f"{where}: the term {term.term!r} needs {need!r}; there is {', '.join(NEEDS)}")
        terms.append(term)
    names = [term.key for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{key}: the term {name!r} stands there twice; add their weights up, or give each a name")
    return tuple(terms)


def with_term(terms: tuple[Term, ...], own: Term, method: str) -> tuple[Term, ...]:
    """An objective with the term that a method brings.

    Raises:
        ConfigError: the config has it as well.
    """
    if any(term.key == own.key for term in terms):
        raise ConfigError(
            f"objective: {method!r} has the term {own.key!r} by itself; leave it out, and set its options in [strategy]"
        )
    return (*terms, own)


def needs_of(term: Term) -> frozenset[str]:
    """All that a term needs: one that names no samples reads the source."""
    wants = term.wants()
    return wants if wants & SAMPLES else wants | {"source"}


class Objective:
    """Σ_j weight_j · term_j.

    Args:
        terms: as the config lists them.
        statistics: what clients are asked for besides, for the method's own use.

    Attributes:
        terms: as the config lists them.
        names: what the record calls them.
        needs: all that any of them needs.
        ramps: whether it depends on the round's progress.
        trained: all that those need whose weight is not 0.
        layers: what they read besides logits.
        outside: what of it is neither samples nor their outputs: progress, other models, statistics.
        personal: the private module that is scored as the client's own model, if a term has such.
        predictor: the term that makes the logits of a client's own predictor, if one does.
        draws: the term that draws random numbers in training, if one does.
        statistics: what they, and the method, ask clients to send.
        remembers: whether clients are to keep the model that they trained last.
        columns: how many numbers an evaluation gives: each term's value, and for each term that may find nothing in a
            mini-batch whether it found something.
        whole_batches: whether a term that trains looks at a mini-batch as a whole, so that padding would count.
    """

    def __init__(self, terms: Sequence[Term], statistics: Sequence[ClientAggregate] = ()) -> None:
        self.terms = tuple(terms)
        self.names = tuple(term.key for term in terms)
        self._needs = [needs_of(term) for term in self.terms]
        self.needs = frozenset[str]().union(*self._needs)
        self.trained = frozenset[str]().union(*(n for term, n in zip(self.terms, self._needs) if term.weight))
        self.layers = frozenset[str]().union(*(term.layers() for term in self.terms))
        self.remembers = bool({"model:previous", "model:before"} & self.needs)
        own = [module_name(term, part) for term in terms if term.weight and (part := term.personal_module())]
        self.personal = own[0] if own else None
        self.predictor = next((t for t in terms if t.weight and type(t).logits is not Term.logits), None)
        self.draws = next((term.key for term in terms if term.weight and term.draws()), None)
        asked = [s for term in self.terms if (s := term.statistic()) is not None]
        self.statistics: tuple[ClientAggregate, ...] = (*asked, *statistics)
        self.whole_batches = any(term.weight and not term.per_sample for term in self.terms)
        self.ramps = "progress" in self.needs or any(term.ramp for term in self.terms)
        # A mean over mini-batches does not count those in which there is nothing.
        self._may_lack = [i for i, term in enumerate(self.terms) if type(term).there is not Term.there]
        self.columns = len(self.terms) + len(self._may_lack)
        self._trains = [(i, term) for i, term in enumerate(self.terms) if term.weight]
        self._measured = [(i, term) for i, term in enumerate(self.terms) if not term.weight]
        self.outside = sorted(
            {*(["progress"] if self.ramps else []), *(need for need in self.needs if need.startswith("model:"))}
            | {f"statistic:{statistic.name}" for statistic in self.statistics}
        )
        # What a client may lack, looked up in every step.
        self._samples = [sorted(needs & SAMPLES - ALWAYS) for needs in self._needs]
        self._given = [
            [*(need for need in needs if need.startswith("model:")), *([f"statistic:{s.name}"] if s else [])]
            for needs, s in ((needs, term.statistic()) for term, needs in zip(self.terms, self._needs))
        ]

    def trains_on(self, *samples: str) -> bool:
        """Whether a client that has these samples can evaluate a term that trains."""
        have = {*samples, *ALWAYS}
        return any(term.weight and not (needs & SAMPLES) - have for term, needs in zip(self.terms, self._needs))

    def __call__(self, context: TermContext) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Evaluate on one client's mini-batch.

        Terms whose needs the client cannot meet (a source's loss at one that holds target data alone) are left
        out; their values are not a number. A term of weight 0 changes no bit of the others' training.

        Returns:
            The objective (a scalar to differentiate), and numbers of which :meth:`means` makes what is recorded: each
            term's value without its weight, and what :meth:`Term.there` says of those that may find nothing.
        """
        total: Tensor | None = None
        values: dict[int, Tensor] = {}
        for i, term in self._trains:
            if self._met(i, context):
                value = values[i] = term.value(context)
                weighed = value if term.weight == 1 else term.weight * value
                if term.ramp:
                    weighed = term.ramp.at(context.progress) * weighed
                total = weighed if total is None else total + weighed
        if total is None:
            if not any(self._has_samples(i, context) for i, _ in self._trains):
                raise ValueError("the objective has no term that this client's data can train")
            total = 0 * context.w.sum()  # what it waits for comes with the next round
        for i, term in self._measured:
            if self._met(i, context) and (term.per_sample or context.mask is None):
                with context.observing():
                    values[i] = term.value(context)
        for place, i in enumerate(self._may_lack, len(self.terms)):
            if i in values:
                with torch.no_grad() if self.terms[i].weight else context.observing():
                    there = self.terms[i].there(context)
                values[place] = torch.full_like(total.detach(), there) if isinstance(there, bool) else there
        if len(values) == self.columns:
            return total, tuple(values[i] for i in range(len(values)))
        missing = torch.full_like(total.detach(), torch.nan)
        return total, tuple(values.get(i, missing) for i in range(self.columns))

    def means(self, sums: Sequence[float], evaluations: int) -> tuple[float, ...]:
        """Each term's mean over evaluations, of those in which it found something; not a number where it never did.

        Args:
            sums: of what evaluations gave, ``[columns]``.
            evaluations: how many there were.
        """
        counts = [float(evaluations)] * len(self.terms)
        for i, there in zip(self._may_lack, sums[len(self.terms) :]):
            counts[i] = there
        return tuple(total / n if n else math.nan for total, n in zip(sums, counts))

    def _met(self, i: int, context: TermContext) -> bool:
        return self._has_samples(i, context) and all(map(context.has, self._given[i]))

    def _has_samples(self, i: int, context: TermContext) -> bool:
        return all(map(context.has, self._samples[i]))


def check_needs(terms: Sequence[Term], place: Callable[[int], str], missing: Callable[[Term, str], str | None]) -> None:
    """Check that a client can meet what each term needs.

    Args:
        terms: of an objective.
        place: what in the config asked for a term, by its number.
        missing: why a need cannot be met, and what would change that; None where it can.

    Raises:
        ConfigError: the first thing that is missing.
    """
    for i, term in enumerate(terms):
        for need in sorted(needs_of(term)):
            if (why := missing(term, need)) is not None:
                raise ConfigError(f"{place(i)}: the term {term.key!r} needs {NEEDS[need]}; {why}")
