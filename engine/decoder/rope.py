"""
Rotary positions: the frequency of each pair of a head, and the ways checkpoints stretch it to longer contexts.

Every way amounts to one divisor per pair and one magnitude. https://arxiv.org/abs/2104.09864
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotates pair d of a head of n by position * theta ** (-2 d / n) / divisors[d], and scales it by `magnitude`."""

    theta: float = 10_000.0
    divisors: tuple[float, ...] = ()  # empty: all 1
    magnitude: float = 1.0

    def compute_rotation(self, context: int, head_dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns cosines and sines of all positions, each (context, head_dim / 2)."""
        frequency = [1 / wave / divisor for wave, divisor in zip(*self._compute_wavelengths(head_dim), strict=True)]
        angle: NDArray[np.float32] = np.outer(np.arange(context, dtype=np.float32), np.asarray(frequency, np.float32))
        magnitude = np.float32(self.magnitude)
        cosine: NDArray[np.float32] = np.cos(angle) * magnitude  # (context, head_dim / 2)
        sine: NDArray[np.float32] = np.sin(angle) * magnitude  # (context, head_dim / 2)
        return cosine, sine

    def _compute_wavelengths(self, head_dim: int) -> tuple[list[float], tuple[float, ...]]:
        pairs = head_dim // 2
        return [self.theta ** (2 * d / head_dim) for d in range(pairs)], self.divisors or (1.0,) * pairs


def parse_rope(theta: float, head_dim: int, scaling: dict[str, Any]) -> Rope:
    """
    Parses `rope_parameters` (or the older `rope_scaling`) of a Hugging Face config; raises ValueError for other types.

    https://huggingface.co/docs/transformers/internal/rope_utils
    """
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in _BUILDERS:
        raise ValueError(f"RoPE scaling of type {kind!r} is not supported: expected {', '.join(_BUILDERS)}")
    if scaling.get("partial_rotary_factor", 1) != 1:
        raise ValueError("RoPE over a part of each head (partial_rotary_factor) is not supported")
    try:
        return _BUILDERS[kind](theta, head_dim, scaling)
    except KeyError as error:
        raise ValueError(f"RoPE scaling of type {kind} lacks {error}") from None


def _build_default(theta: float, head_dim: int, scaling: dict[str, Any]) -> Rope:
    return Rope(theta)


def _build_linear(theta: float, head_dim: int, scaling: dict[str, Any]) -> Rope:
    """Puts positions closer together: https://arxiv.org/abs/2306.15595."""
    return Rope(theta, (float(scaling["factor"]),) * (head_dim // 2))


def _build_llama3(theta: float, head_dim: int, scaling: dict[str, Any]) -> Rope:
    """Slows slow pairs down, keeps fast pairs, and interpolates between them: https://arxiv.org/abs/2407.21783."""
    factor, low, high, original = (float(scaling[key]) for key in _LLAMA3_KEYS)

    def compute_divisor(d: int) -> float:
        # Rotations of this pair within the original context.
        turns: float = original / (2 * math.pi * theta ** (2 * d / head_dim))
        unscaled_share = min(1.0, max(0.0, (turns - low) / (high - low)))
        return 1 / (unscaled_share + (1 - unscaled_share) / factor)

    return Rope(theta, tuple(compute_divisor(d) for d in range(head_dim // 2)))


def _build_yarn(theta: float, head_dim: int, scaling: dict[str, Any]) -> Rope:
    """Interpolates with a ramp over the pairs, and lengthens queries and keys: https://arxiv.org/abs/2309.00071."""
    factor, original = float(scaling["factor"]), float(scaling["original_max_position_embeddings"])

    def find_pair(turns: float) -> float:  # the pair with this many rotations within the original context
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = find_pair(scaling.get("beta_fast") or 32)
    high = find_pair(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0.0), min(high, head_dim - 1.0)

    def compute_divisor(d: int) -> float:
        stretched = min(1.0, max(0.0, (d - low) / (high - low or 0.001)))
        return 1 / (1 - stretched + stretched / factor)

    return Rope(
        theta, tuple(compute_divisor(d) for d in range(head_dim // 2)), _compute_yarn_magnitude(factor, scaling)
    )


def _compute_yarn_magnitude(factor: float, scaling: dict[str, Any]) -> float:
    def compute_magnitude(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    if (attention_factor := scaling.get("attention_factor")) is not None:
        return float(attention_factor)
    scale, all_dims = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return (
        compute_magnitude(float(scale)) / compute_magnitude(float(all_dims))
        if scale and all_dims
        else compute_magnitude(1)
    )


_BUILDERS: dict[str, Callable[[float, int, dict[str, Any]], Rope]] = {
    "default": _build_default,
    "linear": _build_linear,
    "llama3": _build_llama3,
    "yarn": _build_yarn,
}
