"""Small random changes of images, differentiable, from a generator of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def jitter(
    x: Tensor,
    rng: torch.Generator,
    *,
    degrees: float = 5.0,
    scales: Sequence[float] = (0.95, 0.975, 1.0, 1.025),
    shift: float = 0.0,
    noise: float = 0.0,
) -> Tensor:
    """Each image turned, scaled and shifted by its own draw, then noise added; other samples get noise alone.

    Args:
        x: ``[n, channels, height, width]``, or any other ``[n, *shape]``.
        rng: a generator on the CPU.
        degrees: turned by up to so much either way.
        scales: one of these for each image.
        shift: moved by up to this share of its width and height either way.
        noise: uniform noise of up to this, in model inputs.
    """
    n = len(x)
    if x.ndim == 4 and (degrees or shift or tuple(scales) != (1.0,)):
        turn = torch.empty(n).uniform_(-degrees, degrees, generator=rng) * (math.pi / 180)
        size = torch.tensor(scales)[torch.randint(len(scales), (n,), generator=rng)]
        move = torch.empty(n, 2).uniform_(-2 * shift, 2 * shift, generator=rng)  # the image is 2 units wide
        height, width = x.shape[2:]
        cos, sin = turn.cos() / size, turn.sin() / size
        # From an output's place to the input's, both in -1..1, so a turn must know the sides' ratio.
        rows = (torch.stack([cos, -sin * height / width], 1), torch.stack([sin * width / height, cos], 1))
        theta = torch.cat([torch.stack(rows, 1), move[:, :, None]], 2).to(x)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    if noise:
        x = x + torch.empty(x.shape).uniform_(-noise, noise, generator=rng).to(x)
    return x
