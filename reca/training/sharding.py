"""Sharded training (PyTorch's FSDP2): each worker holds its part of every weight, gradient and Adam moment.

A block's weights are gathered when the block runs and let go after it, in the forward and in the backward pass. Parts
are rows: a weight of n rows lies on W workers in pieces of ceil(n / W).
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from reca.training.group import Group


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of every stack inside a model: members with weights of its outermost `nn.ModuleList`s."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (member for member in child if next(member.parameters(), None) is not None)
        else:
            yield from blocks(child)


def shard(root: nn.Module, group: Group) -> None:
    """Leave this worker its part of every weight, frozen ones included. Optimizers must be made afterwards.

    Weights outside of blocks (embeddings, heads, norms) are gathered while `root` runs. Its outputs must be tensors, so
    that the backward pass is noticed.
    """
    mesh = init_device_mesh(torch.device(group.device).type, (group.world,))
    for block in blocks(root):
        fully_shard(block, mesh=mesh)
    fully_shard(root, mesh=mesh)


def whole(value: Tensor) -> Tensor:
    """The whole of a tensor of any shape and type, gathered when it is sharded: every worker has to ask for it then."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def own_part(value: Tensor, like: Tensor) -> Tensor:
    """A copy, on the device of `like`, of a whole tensor, or of this worker's part of it when `like` is sharded.
    `value` has the shape of the whole and any type, which is kept.
    """
    if not isinstance(like, DTensor):
        return value.to(like.device, copy=True)
    part = distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like).copy_(part)  # the part alone may be a view that keeps the whole alive


@contextmanager
def gathered(root: nn.Module, keep: bool) -> Generator[None]:
    """Within, modules hold whole weights on the CPU, as when nothing is sharded. Every worker has to take part.

    Args:
        root: what `shard` was given.
        keep: whether this worker wants them; the others only lend their parts.
    """
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    held: list[tuple[nn.Module, str, nn.Parameter]] = []
    found: dict[nn.Parameter, nn.Parameter] = {}  # a tied weight stays one
    for module in list(root.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter not in found:
                value = whole(parameter.detach())
                found[parameter] = nn.Parameter(value.cpu() if keep else value.new_empty(0), requires_grad=False)
            held.append((module, name, parameter))
    try:
        for module, name, parameter in held if keep else ():
            setattr(module, name, found[parameter])
        yield
    finally:
        for module, name, parameter in held:
            setattr(module, name, parameter)
