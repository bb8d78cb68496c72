"""The machine's practical limit: FedAvg's training step with the backward pass written by hand.

No autograd, no module, no messages: a few library calls per step, in the order that one would write them in C.
What ours reaches through the command line is measured against this.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], None]
"""``step(x, y)``: one step of SGD on a mini-batch, x ``[B, 1, 28, 28]`` float32, y ``[B]`` int64."""


def make_step(model: str, vector: Tensor, lr: float, batch: int = 20) -> Step:
    """A hand-written step of SGD that changes ``vector`` ``[P]``.

    Args:
        model: "logistic" (784-10), "mlp" (784-100-10) or "cnn" (16 and 32 channels of 5x5; 64).
        vector: all parameters in torch's order and shapes: weight, bias, layer by layer.
        lr: η.
        batch: B.
    """
    return {"logistic": _logistic, "mlp": _mlp, "cnn": _cnn}[model](vector, lr, batch)


def _logistic(vector: Tensor, lr: float, batch: int) -> Step:
    (w, b) = _views(vector, (10, 784), (10,))
    wt, minus_one = w.t(), torch.full((batch, 1), -1.0)
    alpha = -lr / batch

    def step(x: Tensor, y: Tensor) -> None:
        x = x.view(batch, 784)
        g = torch.softmax(torch.addmm(b, x, wt), 1)
        g.scatter_add_(1, y.unsqueeze(1), minus_one)
        w.addmm_(g.t(), x, alpha=alpha)
        b.add_(g.sum(0), alpha=alpha)

    return step


def _mlp(vector: Tensor, lr: float, batch: int) -> Step:
    w1, b1, w2, b2 = _views(vector, (100, 784), (100,), (10, 100), (10,))
    w1t, w2t, minus_one = w1.t(), w2.t(), torch.full((batch, 1), -1.0)
    alpha = -lr / batch

    def step(x: Tensor, y: Tensor) -> None:
        x = x.view(batch, 784)
        h = torch.addmm(b1, x, w1t).relu_()
        g = torch.softmax(torch.addmm(b2, h, w2t), 1)
        g.scatter_add_(1, y.unsqueeze(1), minus_one)
        gh = torch.mm(g, w2)
        gh = torch.ops.aten.threshold_backward(gh, h, 0)
        w2.addmm_(g.t(), h, alpha=alpha)
        b2.add_(g.sum(0), alpha=alpha)
        w1.addmm_(gh.t(), x, alpha=alpha)
        b1.add_(gh.sum(0), alpha=alpha)

    return step


def _cnn(vector: Tensor, lr: float, batch: int) -> Step:
    shapes = (16, 1, 5, 5), (16,), (32, 16, 5, 5), (32,), (64, 512), (64,), (10, 64), (10,)
    flat = _views(vector, *shapes)
    k1, c1, k2, c2, w1, b1, w2, b2 = flat
    w1t, w2t, minus_one = w1.t(), w2.t(), torch.full((batch, 1), -1.0)
    alpha = -lr / batch
    aten, last = torch.ops.aten, torch.channels_last
    one, none, pool = (1, 1), (0, 0), (2, 2)

    def step(x: Tensor, y: Tensor) -> None:
        # With one channel both layouts are the same memory; these strides tell the convolution which is meant.
        x = x.as_strided((batch, 1, 28, 28), (784, 1, 28, 1))
        a1 = torch.conv2d(x, k1.contiguous(memory_format=last), c1)
        # ReLU and max-pooling commute; pooled first, the ReLU has a quarter of the work.
        p1, i1 = aten.max_pool2d_with_indices(a1, pool, pool)
        p1.relu_()
        k2_last = k2.contiguous(memory_format=last)
        a2 = torch.conv2d(p1, k2_last, c2)
        p2, i2 = aten.max_pool2d_with_indices(a2, pool, pool)
        p2.relu_()
        f = p2.reshape(batch, 512)
        h = torch.addmm(b1, f, w1t).relu_()
        g = torch.softmax(torch.addmm(b2, h, w2t), 1)
        g.scatter_add_(1, y.unsqueeze(1), minus_one)
        gh = aten.threshold_backward(torch.mm(g, w2), h, 0)
        gf = torch.mm(gh, w1).view(p2.shape).contiguous(memory_format=last)
        w2.addmm_(g.t(), h, alpha=alpha)
        b2.add_(g.sum(0), alpha=alpha)
        w1.addmm_(gh.t(), f, alpha=alpha)
        b1.add_(gh.sum(0), alpha=alpha)
        g2 = aten.threshold_backward(gf, p2, 0)
        g2 = aten.max_pool2d_with_indices_backward(g2, a2, pool, pool, none, one, False, i2)
        g1, gk2, gc2 = aten.convolution_backward(
            g2, p1, k2_last, (32,), one, none, one, False, none, 1, (True, True, True)
        )
        k2.add_(gk2, alpha=alpha)
        c2.add_(gc2, alpha=alpha)
        g1 = aten.threshold_backward(g1, p1, 0)
        g1 = aten.max_pool2d_with_indices_backward(g1, a1, pool, pool, none, one, False, i1)
        _, gk1, gc1 = aten.convolution_backward(g1, x, k1, (16,), one, none, one, False, none, 1, (False, True, True))
        k1.add_(gk1, alpha=alpha)
        c1.add_(gc1, alpha=alpha)

    return step


def _views(vector: Tensor, *shapes: tuple[int, ...]) -> list[Tensor]:
    sizes = [torch.Size(shape).numel() for shape in shapes]
    return [part.view(shape) for part, shape in zip(vector.split(sizes), shapes)]
