"""Derivatives in time, of whatever a schedule is asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def slope(f: Callable[[Tensor], Tensor], t: Tensor | float) -> Tensor:
    """f'(t), elementwise, float64; f must treat every time by itself."""
    with torch.enable_grad():
        u = torch.as_tensor(t, dtype=torch.float64).detach().clone().requires_grad_()
        return torch.autograd.grad(f(u).sum(), u)[0]
