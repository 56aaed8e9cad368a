"""Captures a call in a CUDA graph, which is replayed to time what the GPU does without the host's time."""

from typing import Any

import torch

from bench.run import memory
from bench.run.memory import Computation


def captured(computation: Computation, device: torch.device) -> tuple[Computation, str, int]:
    """Capture `computation` in a CUDA graph.

    Return a function that replays the graph, "graph", and the peak of the memory that a call takes beside operands and
    results. If the call cannot be captured, return `computation` itself and "events" instead of the first two. Raise
    torch.OutOfMemoryError if memory does not suffice for the capture.
    """
    computation()
    extra = memory.beside_results(*memory.on_gpu(computation, device))
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            computation()
    torch.cuda.current_stream(device).wait_stream(side)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        with torch.cuda.graph(graph):
            kept = computation()
    except torch.OutOfMemoryError:
        torch.cuda.set_stream(stream)
        raise
    except RuntimeError:
        torch.cuda.set_stream(stream)  # a capture that fails at its end leaves its own stream behind
        torch.cuda.synchronize(device)
        return computation, "events", extra

    def replay(kept: Any = kept) -> Any:
        graph.replay()
        return kept  # the tensors that the graph writes to

    return replay, "graph", extra
