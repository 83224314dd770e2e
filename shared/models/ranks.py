"""The processes that train one model together, as torchrun starts them; one process alone by default."""

import os
from collections.abc import Iterable

import torch
from torch import distributed


class Ranks:
    """This process's place among those that share a fine-tune.

    Gradients are added up over all processes after each backward pass, each holding its share of one batch: the
    result is that of one process with the whole batch, up to rounding.

    Attributes:
        rank: From 0; rank 0 reads, writes and reports.
        world: How many processes there are.
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @classmethod
    def join(cls, *, device: str) -> "Ranks":
        """Join the processes that torchrun started; alone when there are none. Waits until all have joined."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world > 1 and not distributed.is_initialized():
            if device == "cuda":
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            distributed.init_process_group("nccl" if device == "cuda" else "gloo")
        return cls(int(os.environ.get("RANK", "0")), world)

    def leave(self) -> None:
        """Part from the others."""
        if self.world > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def add_up(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes."""
        if self.world == 1:
            return
        for parameter in parameters:
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)

    def sum(self, value: float) -> float:
        """Return a number's sum over all processes."""
        if self.world == 1:
            return value
        held = torch.tensor([value], dtype=torch.float64)
        if distributed.get_backend() == "nccl":
            held = held.cuda()
        distributed.all_reduce(held)
        return float(held.item())
