"""An accelerator for machines that have none: "pretend" tensors, which refuse to meet tensors of another device.

Each holds a CPU tensor, and everything is computed on that. So figures are those of the CPU to the last digit, and code
that leaves a tensor on the wrong device fails as it would on a GPU. What it can't show: speed, memory, streams, other
rounding, and types that a device lacks. Import it first: it changes torch for the whole process. Tried with torch 2.13.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

# Operations that carry tensors from device to device, and indexing, which takes indices from the CPU.
TRAVEL = ("_to_copy", "copy_", "index", "index_put_", "_index_put_impl_")


class Pretend(Tensor):
    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Pretend":
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, *args, **(kwargs or {}))

    def tolist(self) -> Any:
        return self.held.tolist()

    def new_tensor(self, data: Any) -> Tensor:  # type: ignore[override]
        return self.held.new_tensor(data).to(DEVICE)


def compute(func: Any, *args: Any, **kwargs: Any) -> Any:
    """What an operation gives that has to do with the device."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    strangers = [x for x in tensors if not isinstance(x, Pretend) and x.ndim]  # a single number may come from the CPU
    name = func.overloadpacket.__name__
    if strangers and len(strangers) < len(tensors) and name not in TRAVEL:
        raise RuntimeError(f"{name}: a tensor of shape {tuple(strangers[0].shape)} is on the CPU, others are not")
    leaving = name == "_to_copy" and (kwargs.get("device") or DEVICE).type == "cpu"
    known = {id(x.held): x for x in tensors if isinstance(x, Pretend)}

    def enter(x: Any) -> Any:
        return x.held if isinstance(x, Pretend) else torch.device("cpu") if isinstance(x, torch.device) else x

    def back(x: Any) -> Any:
        if leaving or not isinstance(x, Tensor):
            return x
        return known[id(x)] if id(x) in known else Pretend(x)  # known: what was written in place

    return tree_map(back, func(*tree_map(enter, args), **tree_map(enter, kwargs)))


def by_way_of_the_cpu(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of functions that make tensors and do not reach devices of Python yet."""

    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        tensor = make(*args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made


class Generator(torch.Generator):
    """On the CPU, whatever is asked for."""

    def __new__(cls, device: Any = None) -> "Generator":
        return super().__new__(cls)


_setup_privateuseone_for_python_backend("pretend")
torch.get_device_module("pretend").get_amp_supported_dtype = lambda: [torch.bfloat16]  # autocast asks for it
DEVICE = torch.device("pretend:0")
_library = torch.library.Library("_", "IMPL")
_library.fallback(compute, "PrivateUse1")
for _name in ("tensor", "as_tensor", "arange"):
    setattr(torch, _name, by_way_of_the_cpu(getattr(torch, _name)))
torch.Generator = Generator  # type: ignore[misc]
torch.inference_mode = torch.no_grad  # type: ignore[assignment, misc] # which views of such tensors do not bear
