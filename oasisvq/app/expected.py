"""What the model expected in a region of a slice: one draw of its codes that fits the rest, kept for its session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from oasisvq.app.models import compute_slot, session_store

if TYPE_CHECKING:
    from torch import Tensor

    from oasisvq.pipeline import OasisVQ

_KEPT = "what was expected"


@dataclass(frozen=True)
class Expected:
    """A question: codes (1, h, w) of a slice, the mask (h, w) of those to draw again, a seed, the level if known."""

    indices: Tensor
    mask: Tensor
    seed: int
    level: int | None

    @property
    def picture(self) -> NDArray[np.float32] | None:
        """The answer, (S, S) in [0, 1]; None before it is drawn. The session keeps the last one."""
        asked, picture = session_store().get(_KEPT, (None, None))
        return picture if asked == self._key() else None

    def draw(self, model: OasisVQ) -> None:
        """Draw the answer. Takes a compute slot."""
        with compute_slot():
            filled = model.refill(self.indices, self.mask, seed=self.seed, level=self.level)
        session_store()[_KEPT] = self._key(), filled.slices[0, 0].numpy() + np.float32(0.5)

    def _key(self) -> tuple[object, ...]:
        return self.indices.numpy().tobytes(), self.mask.numpy().tobytes(), self.seed, self.level


def forget_private() -> None:
    """Let go of the answer: it may belong to an upload."""
    session_store().pop(_KEPT, None)
