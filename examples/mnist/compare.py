"""Compare one training step of torch.nn, the reference and the Triton kernels with float64.

A step consists of the outputs and every gradient. The expected values are those of torch.nn in float64, computed from
the same weights and images.
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
# Triton's interpreter is slow: it runs one block of output pixels after another, and one filter tap after another.
IMAGES_IN_INTERPRETER = 2
# Keeps the gradients of a float16 step in range, as the GradScaler does in training.
LOSS_SCALE = 1024
# The legends that `train.py` prints.
ERRORS = """\
RMS: root mean square of the errors, divided by the RMS of the expected values.
max: largest error. Each is divided by its expected value, or by the RMS of the expected values if that is larger."""


class Step(NamedTuple):
    """The outputs and gradients of a training step by name, and notes to print below the table.

    A step that its implementation refused has no values.
    """

    values: dict[str, Tensor]
    notes: list[str]


def table(state: dict[str, Tensor], images: Images, dtype: torch.dtype) -> str:
    """Return the table of errors of one training step in `dtype`, as text, relative to torch.nn in float64.

    The table has a row for each output and gradient. It has two columns, the RMS and the largest error (`errors`), for
    each of torch.nn, the reference and the Triton kernels. If Triton can not run the step, its columns are left out,
    and a note says why. Notes below the table say what was computed.

    The step has the weights `state` and the first 64 of `images`. On the CPU, or with TRITON_INTERPRET=1, it has the
    first 2, because the kernels then run in Triton's interpreter.
    """
    interpreted = images.pixels.device.type == "cpu" or os.environ.get("TRITON_INTERPRET") == "1"
    count = min(IMAGES_IN_INTERPRETER if interpreted else IMAGES, len(images.labels))
    # Weights and images are rounded to `dtype` first. So all steps start from equal numbers: only arithmetic differs.
    state = {name: rounded(value, dtype) for name, value in state.items()}
    images = Images(rounded(images.pixels[:count], dtype), images.labels[:count])

    expected = step("torch", state, images, torch.float64)
    columns = {name: step(name, state, images, dtype) for name in ("torch", "reference")}
    triton = step_in_interpreter(state, images, dtype) if interpreted else step_of_triton(state, images, dtype)
    if triton.values:
        columns["triton*" if interpreted else "triton"] = triton

    lines = [f"{'':30}" + "".join(f"{name:20}" for name in columns)]
    lines.append(f"{'':30}" + f"{'RMS':8} {'max':11}" * len(columns))
    for name, value in expected.values.items():
        cells = [errors(column.values[name], value) for column in columns.values()]
        lines.append(f"{name:30}" + "".join(f"{rms:<8.1e} {most:<11.1e}" for rms, most in cells))
    precision = str(dtype).removeprefix("torch.")
    notes = [
        f"The step is computed in {precision}, on the {count} test images with the largest loss.",
        *tf32_notes(images, dtype),
    ]
    if triton.values and interpreted:
        notes.append(f"* The kernels ran in Triton's interpreter. It is slow, hence only {count} images.")
        if dtype == torch.bfloat16:
            notes.append("  The interpreter truncates numbers to bfloat16. A GPU rounds them.")
    return "\n".join(line.rstrip() for line in [*lines, "", *notes, *triton.notes])


def hardest(test: Images, logits: Tensor) -> Images:
    """Return the test images, sorted by the cross-entropy of their `logits`, the largest first.

    An image that is classified without doubt has a loss near zero, and so nearly no gradients to compare.
    """
    order = cross_entropy(logits, test.labels, reduction="none").argsort(descending=True, stable=True)
    return Images(test.pixels[order], test.labels[order])


def step(implementation: str, state: dict[str, Tensor], images: Images, dtype: torch.dtype) -> Step:
    """Return the outputs and gradients of one forward and backward pass with the weights `state`.

    16-bit dtypes run by autocast. The gradients are those of the image and of each weight and bias.
    """
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
    """Return `step` with the Triton kernels, forward and backward. If they can not run, return a note and no values."""
    network = build("triton", images.pixels.shape[-1], images.pixels.device, dtype)
    try:
        with autocast(images.pixels.device, dtype):
            # A batch without images starts no kernel, but decides what would run. So an error here is a refusal.
            tritonconv.explain(network, images.pixels[:0].to(wide(dtype)))
    except NotImplementedError as refusal:
        return Step({}, [f"There is no column for {refusal}"])
    return step("triton", state, images, dtype)


def step_in_interpreter(state: dict[str, Tensor], images: Images, dtype: torch.dtype) -> Step:
    """Return `step_of_triton` from a new process, because TRITON_INTERPRET has no effect once Triton is imported.

    If that process fails, end the program.
    """
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
    """Run `step_of_triton` in the process that `step_in_interpreter` starts.

    The file `path` has the arguments. The result overwrites them.
    """
    state, images, dtype = torch.load(path)
    torch.save(tuple(step_of_triton(state, Images(*images), dtype)), path)


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `tensor` rounded to the precision of `dtype`, in the dtype that it had."""
    return tensor.to(dtype).to(tensor.dtype)


def errors(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return RMS(a-e)/RMS(e) and the largest |a-e|/max(RMS(e), |e|), for a = `actual` and e = `expected`.

    The RMS alone would hide one wrong pixel.
    """
    difference = (actual.double() - expected).abs()
    rms = expected.square().mean().sqrt()
    return (difference.square().mean().sqrt() / rms).item(), (difference / expected.abs().clamp(min=rms)).max().item()


def tf32_notes(images: Images, dtype: torch.dtype) -> list[str]:
    """Return notes that say whether a GPU rounds float32 to TF32. On the CPU, or in another dtype, return no notes.

    By default, torch rounds in convolutions.
    """
    if images.pixels.device.type != "cuda" or dtype != torch.float32:
        return []
    convolutions = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    products = torch.backends.cuda.matmul.fp32_precision
    return [
        f"torch.backends.cudnn.conv.fp32_precision, which torch.nn and the kernels obey, is {convolutions!r}.",
        f"torch.backends.cuda.matmul.fp32_precision, which the reference obeys, is {products!r}.",
    ]


if __name__ == "__main__":
    main(sys.argv[1])
