"""A model in training: its whole step with one implementation, and the ways of running that step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import tritonconv
from bench.train.convert import convert
from bench.train.data import Batch
from bench.train.models import Model, Size

MOMENTUM = 0.9
# How many steps run before one is timed. The first ones compile kernels, and let cuDNN choose its algorithms.
BEFORE = 3
# The learning rate of steps that are timed, which learn nothing: it keeps the losses finite.
SLOW_RATE = 1e-4

Step = Callable[[], Any]


@dataclass
class Training:
    """A model in training.

    Attributes:
        losses: The loss of each part of a step, a module that is called with a batch. A GAN has two parts.
        optimizers: The optimizer of each part.
        autocast: Whether forward runs in bfloat16. Parameters are float32 in any case.
        converted: How many layers tritonconv computes.
    """

    losses: list[nn.Module]
    optimizers: list[torch.optim.Optimizer]
    autocast: torch.autocast
    converted: int

    @classmethod
    def of(
        cls, model: Model, size: Size, implementation: str, device: torch.device, seed: int, rate: float
    ) -> "Training":
        """Return a model in training, with initial weights from `seed`, by the implementation "torch" or "triton".

        The weights are the same for both implementations. On a GPU every layer of "triton" must run on its kernels. A
        CPU runs the reference instead, or Triton's interpreter.
        """
        torch.manual_seed(seed)
        parts = model.build(size).values()
        losses = [loss for loss, _ in parts]
        forced = "triton" if device.type == "cuda" else None
        converted = convert(nn.ModuleList(losses), forced) if implementation == "triton" else 0
        for loss in losses:
            loss.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.SGD(trained.parameters(), lr=rate, momentum=MOMENTUM, foreach=True) for _, trained in parts
        ]
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=dtype_on(device) == "bfloat16")
        return cls(losses, optimizers, autocast, converted)

    def step(self, *batch: Tensor) -> list[Tensor]:
        """Run a whole training step: for each part forward, loss, backward and the optimizer. Return the losses."""
        found = []
        for loss, optimizer in zip(self.losses, self.optimizers, strict=True):
            with self.autocast:
                value = loss(*batch)
            # Backward then writes gradients instead of adding to them, and a CUDA graph keeps them in its own memory.
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            found.append(value.detach())
        return found

    def precompile(self, batch: Batch) -> None:
        """Compile the kernels of the step in parallel processes, if Triton runs any.

        A model that can not run without data compiles them in its first step instead, one after another.
        """
        for loss in self.losses:
            try:
                with self.autocast:
                    tritonconv.warmup(loss, *batch)
            except RuntimeError as error:
                print(error)


def dtype_on(device: torch.device) -> str:
    """Return the dtype in which convolutions run: bfloat16 on a GPU, by autocast, and float32 on a CPU."""
    return "bfloat16" if device.type == "cuda" else "float32"


def eager(training: Training, batch: Batch, device: torch.device) -> Step:
    """Return the step as it is."""
    step = partial(training.step, *batch)
    warm(step, device)
    step()
    return step


def compiled(training: Training, batch: Batch, device: torch.device) -> Step:
    """Return the step with each loss, forward and backward, under torch.compile. The optimizer runs as it is."""
    training.losses = [torch.compile(loss, dynamic=False) for loss in training.losses]  # type: ignore[misc]
    return eager(training, batch, device)


def graphed(training: Training, batch: Batch, device: torch.device) -> Step:
    """Return a function that replays the whole step, which is captured in a CUDA graph.

    Before that, steps run on a side stream, as torch's documentation asks. They allocate what the optimizer keeps.
    """
    step = partial(training.step, *batch)
    stream, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(stream)
    with torch.cuda.stream(side):
        warm(step, device)
    stream.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            losses = step()
    except Exception:
        torch.cuda.set_stream(stream)  # a capture that fails at its end leaves its own stream behind
        raise

    def replay(kept: Any = (training, losses)) -> list[Tensor]:
        graph.replay()
        written: list[Tensor] = kept[1]  # the tensors that the graph writes to
        return written

    return replay


def warm(step: Step, device: torch.device) -> None:
    """Run a step several times. Then start counting the peak of the memory, which so leaves out cuDNN's search."""
    for _ in range(BEFORE if device.type == "cuda" else 1):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)


# Each way of running a step. A way returns a function that runs the step. Its last own step, or its capture, counts for
# the peak of the memory.
WAYS: dict[str, Callable[[Training, Batch, torch.device], Step]] = {
    "eager": eager,
    "graph": graphed,
    "compile": compiled,
}
