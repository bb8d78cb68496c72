"""pFedMe: personalisation by Moreau envelopes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import Tensor

from fedtl.clients.contract import ClientUpdate, Count, Gradient, Memory, Probe, State, Vectors
from fedtl.clients.settings import Counted, Settings
from fedtl.losses.batch import Batch
from fedtl.optimizers.settings import OptimizerSettings


class PFedMeSettings(Settings, OptimizerSettings):
    """Options of pFedMe, in the paper's symbols (arXiv 2006.08848); the last three are its authors' code's.

    ``optimizer``, ``clip_norm``, ``schedule`` and ``lr_scale`` are those of the K inner steps, which approximate θ̃_i;
    the step on the envelope is the method.

    Attributes:
        lam: λ, how strongly a personalised model is held to the local one.
        inner_steps: K, gradient steps on h_i that approximate θ̃_i.
        inner_lr: the learning rate of those steps ("personal learning rate").
        beta: β, the server's mixing.
        weighting: the paper takes the plain mean of the sampled clients ("uniform").
        inner_start: where the K steps begin: at the previous mini-batch's θ̃ (at w for the round's first),
            or at w_{i,r} each time. The paper leaves it open.
        weight_decay: adds ``weight_decay * θ`` to the gradient of h_i.
        personal_model: what is scored as the client's own: "theta" (the paper), or "local", w_{i,R}.
    """

    never_cut: ClassVar[tuple[str, ...]] = ("inner_steps",)

    lam: float = Field(ge=0)
    inner_steps: PositiveInt = 5
    inner_lr: float = Field(gt=0)
    beta: float = Field(1.0, gt=0)
    weighting: Counted = "uniform"
    inner_start: Literal["previous", "w"] = "previous"
    weight_decay: float = Field(0.0, ge=0)
    personal_model: Literal["theta", "local"] = "theta"


class PFedMe(ClientUpdate[PFedMeSettings]):
    """A client's part of Algorithm 1 of Dinh, Tran, Nguyen: Personalized Federated Learning with Moreau Envelopes.

    For r = 0..R-1, on a fresh mini-batch each: θ̃ approximates the minimiser of
    h_i(θ; w) = f_i(θ; batch) + λ/2 ‖θ - w‖² by K gradient steps, and then
    w_{i,r+1} = w_{i,r} - η λ (w_{i,r} - θ̃), a gradient step on the Moreau envelope (eq. 7 and 9).

    Differs from the paper: not at all by default. The authors' code adds a weight decay of 0.001 to θ's
    gradient, weights the server's mean by samples, and scores w_{i,R} in θ's place, as its two models share their
    memory: ``weight_decay = 0.001``, ``weighting = "samples"``, ``personal_model = "local"``. It also goes through a
    client's mini-batches in one fixed order. Which of both models is scored makes no measurable difference in Table 1
    (results/pfedme-table1), nor does the order: whole runs of their code and of this one agree to 0.1 points.
    """

    settings_type: ClassVar[type[Settings]] = PFedMeSettings
    personalises: ClassVar[bool] = True

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """Where a second mini-batch would begin, where there is one alone."""
        one = settings.local_steps == 1 or (settings.local_epochs == 1 and not settings.batch_size)
        return {"inner_start": "θ begins at w for a round's first mini-batch, and there is no other"} if one else {}

    def driven_lr(self, settings: PFedMeSettings) -> float:
        """Of the inner steps."""
        return settings.inner_lr

    def first_memory(self, received: Vectors) -> Memory:
        """A client that has never trained has no θ̃ but the model that it received; no round begins with it."""
        return {"theta": received["w"].clone()}

    def start(self, received: Vectors, memory: Memory, probe: Probe) -> State:
        """w_{i,0} = w^t; θ begins there too."""
        w = received["w"]
        return {"w": w, "theta": w, **self.optimizer.init(w, "theta")}

    def step(self, state: State, batch: Batch, grad: Gradient) -> State:
        """Approximate the prox of f_i at w, then step on the envelope."""
        w, theta, o = state["w"], state["theta"], self.settings
        if o.inner_start == "w":
            theta.copy_(w)
        for _ in range(o.inner_steps):
            h = grad(theta, batch).add_(theta - w, alpha=o.lam)  # ∇h_i(θ; w) = ∇f_i(θ) + λ(θ - w)
            h = self.optimizer.clipped(h)
            if o.weight_decay:
                h.add_(theta, alpha=o.weight_decay)
            state = self.optimizer.step(state, h, "theta", clipped=True)
            theta = state["theta"]
        w.sub_(w - theta, alpha=o.lr * o.lam)  # w ← w - ηλ(w - θ̃)
        return state

    def finish(self, state: State, count: Count) -> tuple[Vectors, Memory]:
        """Upload w_{i,R}; keep the personalised model."""
        return {"w": state["w"]}, {"theta": state["theta" if self.settings.personal_model == "theta" else "w"]}

    def personal(self, received: Vectors, memory: Memory) -> Tensor:
        """θ̃_i."""
        return memory["theta"]
