"""How far one training step is from float64: in torch.nn, in the reference and in the Triton kernels.

A step is the outputs and every gradient. What is expected of it is the step of torch.nn in float64, from the same
weights and images.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from images import Images
from network import autocast, build, loss_of, wide
from torch import Tensor
from torch.nn.functional import cross_entropy

import tritonconv

IMAGES = 64
# Triton's interpreter runs filter tap by filter tap, for one block of output pixels after another.
IMAGES_IN_INTERPRETER = 2
# Keeps the gradients of a float16 step in range, as the GradScaler does in training.
LOSS_SCALE = 1024


class Step(NamedTuple):
    """Outputs and gradients by name, and what a reader must know about them. No values if the step was refused."""

    values: dict[str, Tensor]
    notes: list[str]


def table(state: dict[str, Tensor], images: Images, dtype: torch.dtype) -> str:
    """A row for each output and gradient, a column for each implementation, computed from the first of `images`."""
    interpreted = images.pixels.device.type == "cpu" or os.environ.get("TRITON_INTERPRET") == "1"
    count = min(IMAGES_IN_INTERPRETER if interpreted else IMAGES, len(images.labels))
    # Every step starts from numbers that the narrowest dtype holds, so that only the arithmetic differs.
    state = {name: rounded(value, dtype) for name, value in state.items()}
    images = Images(rounded(images.pixels[:count], dtype), images.labels[:count])

    expected = step("torch", state, images, torch.float64)
    columns = {name: step(name, state, images, dtype) for name in ("torch", "reference")}
    triton = step_in_interpreter(state, images, dtype) if interpreted else step_of_triton(state, images, dtype)
    if triton.values:
        columns["triton*" if interpreted else "triton"] = triton

    lines = [f"{'':30}" + "".join(f"{name:20}" for name in columns)]
    for name, value in expected.values.items():
        cells = [errors(column.values[name], value) for column in columns.values()]
        lines.append(f"{name:30}" + "".join(f"{rms:<8.1e} {most:<11.1e}" for rms, most in cells))
    precision = str(dtype).removeprefix("torch.")
    notes = [f"on the {count} test images with the largest loss, in {precision}", *tf32_notes(images, dtype)]
    if triton.values and interpreted:
        notes.append(f"* in Triton's interpreter, on {count} images because it is slow")
        if dtype == torch.bfloat16:
            notes.append("  which cuts numbers off to bfloat16 where a GPU rounds them")
    return "\n".join(line.rstrip() for line in [*lines, "", *notes, *triton.notes])


def hardest(test: Images, logits: Tensor) -> Images:
    """The images with the largest loss first: one that is read without doubt has next to no gradients to compare."""
    order = cross_entropy(logits, test.labels, reduction="none").argsort(descending=True, stable=True)
    return Images(test.pixels[order], test.labels[order])


def step(implementation: str, state: dict[str, Tensor], images: Images, dtype: torch.dtype) -> Step:
    """Forward and backward, once, of the network with the weights `state`."""
    device, size = images.pixels.device, images.pixels.shape[-1]
    network = build(implementation, size, device, dtype)
    network.load_state_dict(state)
    wanted = images.pixels.to(wide(dtype))
    pixels = wanted.clone().requires_grad_()
    scale = LOSS_SCALE if dtype == torch.float16 else 1
    with autocast(device, dtype):
        logits, reconstruction = network(pixels)
        loss = loss_of(logits, reconstruction, wanted, images.labels)
    (scale * loss).backward()
    leaves = {"image": pixels, **dict(network.named_parameters())}
    gradients = {f"gradient of {name}": leaf.grad / scale for name, leaf in leaves.items() if leaf.grad is not None}
    return Step({"logits": logits.detach(), "reconstruction": reconstruction.detach(), **gradients}, [])


def step_of_triton(state: dict[str, Tensor], images: Images, dtype: torch.dtype) -> Step:
    """`step` with the Triton kernels, forward and backward. Refused, with a note, where the kernels cannot run."""
    network = build("triton", images.pixels.shape[-1], images.pixels.device, dtype)
    try:
        with autocast(images.pixels.device, dtype):
            # No image is needed to choose, and without any no kernel starts: what is raised here is a refusal.
            tritonconv.explain(network, images.pixels[:0].to(wide(dtype)))
    except NotImplementedError as refusal:
        return Step({}, [f"no column for {refusal}"])
    return step("triton", state, images, dtype)


def step_in_interpreter(state: dict[str, Tensor], images: Images, dtype: torch.dtype) -> Step:
    """`step_of_triton` in a process of its own: TRITON_INTERPRET counts only if it is set before Triton is imported."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "step.pt"
        torch.save((state, tuple(images), dtype), path)
        done = subprocess.run(
            [sys.executable, __file__, path],
            env=os.environ | {"TRITON_INTERPRET": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode != 0:
            sys.exit(f"error: the step in Triton's interpreter failed:\n{done.stderr}")
        sys.stderr.write(done.stderr)
        return Step(*torch.load(path))


def main(path: str) -> None:
    """The other side of `step_in_interpreter`: the result takes the place of the arguments."""
    state, images, dtype = torch.load(path)
    torch.save(tuple(step_of_triton(state, Images(*images), dtype)), path)


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype).to(tensor.dtype)


def errors(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """RMS(a-e)/RMS(e), and the largest |a-e|/max(RMS(e), |e|): the RMS alone would hide one wrong pixel."""
    difference = (actual.double() - expected).abs()
    rms = expected.square().mean().sqrt()
    return (difference.square().mean().sqrt() / rms).item(), (difference / expected.abs().clamp(min=rms)).max().item()


def tf32_notes(images: Images, dtype: torch.dtype) -> list[str]:
    """On a GPU, whether torch lets float32 be rounded to TF32. It does so in convolutions unless told otherwise."""
    if images.pixels.device.type != "cuda" or dtype != torch.float32:
        return []
    convolutions = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    products = torch.backends.cuda.matmul.fp32_precision
    return [
        f"torch.backends.cudnn.conv.fp32_precision is {convolutions!r}, which torch.nn and the kernels follow",
        f"torch.backends.cuda.matmul.fp32_precision is {products!r}, which the reference follows",
    ]


if __name__ == "__main__":
    main(sys.argv[1])
