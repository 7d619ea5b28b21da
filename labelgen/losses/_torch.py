"""torch: autograd nodes of functions that compute their gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from labelgen.losses._types import ValueAndGradient


def attach(function: ValueAndGradient, scores: torch.Tensor, constants: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The value of `function(scores, *constants)`, differentiable once by the scores."""
    value: torch.Tensor = _Attached.apply(function, scores, *constants)
    return value


class _Attached(torch.autograd.Function):
    """Takes value and gradient in the forward pass and keeps the gradient, [B, B], instead of the pairs."""

    @staticmethod
    def forward(ctx: Any, function: ValueAndGradient, scores: torch.Tensor, *constants: torch.Tensor) -> torch.Tensor:
        value, gradient = function(scores, *constants, gradient=ctx.needs_input_grad[1])
        ctx.save_for_backward(gradient)
        scalar: torch.Tensor = value
        return scalar

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (None, above * gradient, *(None for _ in ctx.needs_input_grad[2:]))
