"""Arrays that record the dtype of every array computed from them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from engine.decoder.model import Model
from engine.decoder.weights import Array, Layer, Weights


class Spy(np.ndarray[Any, Any]):
    """An array that records the dtype of every array computed from it."""

    dtypes: set[np.dtype[Any]] = set()  # noqa: RUF012  __array_finalize__ can only write to the class

    def __array_finalize__(self, source: object) -> None:
        Spy.dtypes.add(self.dtype)


def spy_on(model: Model) -> Model:
    """Replaces every array of the model by a spy."""

    def watch(array: Array | None) -> Any:
        return None if array is None else array.view(Spy)

    blocks = [
        Layer(*(watch(getattr(layer, field.name)) for field in dataclasses.fields(Layer)))
        for layer in model.weights.layers
    ]
    weights = model.weights
    model.weights = Weights(
        weights.config,
        watch(weights.embedding),
        tuple(blocks),
        watch(weights.norm),
        watch(weights.classifier),
    )
    for name, value in list(vars(model).items()):
        if isinstance(value, np.ndarray):
            setattr(model, name, value.view(Spy))
    return model
