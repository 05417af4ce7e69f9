"""Discrete codes for brain MRI slices: a VQ-VAE, a PixelCNN prior, and what is measured of both."""

from typing import TYPE_CHECKING, Any

from oasisvq.errors import OasisVQError

if TYPE_CHECKING:
    from oasisvq.pipeline import OasisVQ

__version__ = "0.2.0"

__all__ = ["OasisVQ", "OasisVQError", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded when first asked for: torch takes seconds, and reading or preparing data does not need it.
    if name == "OasisVQ":
        from oasisvq.pipeline import OasisVQ

        return OasisVQ
    raise AttributeError(f"module 'oasisvq' has no attribute {name!r}")
