"""What the kernels run on: a GPU or Triton's interpreter, and how exactly torch wants float32 multiplied."""

from functools import cache
from importlib import import_module

import torch

from tritonconv.gpu import INTERPRETER, Gpu


def tf32_allowed() -> bool:
    """torch's switch for convolutions: `torch.backends.cudnn.conv.fp32_precision`, and `allow_tf32` behind it."""
    return bool(torch.backends.cudnn.conv.fp32_precision == "tf32")  # type: ignore[attr-defined]


def is_gpu(device: torch.device) -> bool:
    """Whether who computes there expects kernels."""
    return device.type == "cuda"


@cache
def no_triton() -> str | None:
    """Why there is no Triton here, if there is none that can be imported."""
    try:
        for name in ("triton", "triton.language"):
            import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "triton":
            return "Triton is not installed"
        return f"Triton can not be imported: {type(error).__name__}: {error}"
    return None


@cache
def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter: TRITON_INTERPRET=1 makes them, when they are first imported."""
    from triton.runtime import JITFunction

    from tritonconv.kernels.gather.fprop import fprop_kernel

    return not isinstance(fprop_kernel, JITFunction)


@cache
def gpu_of(device: torch.device) -> Gpu:
    """The GPU that a kernel on `device` runs on. Raises what torch raises if there is none."""
    if interpreted():
        return INTERPRETER
    properties = torch.cuda.get_device_properties(device)
    # AMD's name is followed by what it is configured to do: gfx942:sramecc+:xnack-.
    amd = properties.gcnArchName.partition(":")[0] if torch.version.hip else None
    return Gpu.of(amd or f"sm_{properties.major}{properties.minor}", properties.multi_processor_count, properties.name)
