"""What the kernels run on: a GPU or Triton's interpreter. Also whether torch allows TF32 for float32."""

from functools import cache
from importlib import import_module

import torch

from tritonconv.gpu import INTERPRETER, Gpu

# The launchers of compiled kernels are private to Triton, and so is how the host fills TMA descriptors. Tests have
# compared how `launch.start.run_again` calls launchers with how Triton does, for these versions. With others, kernels
# are started by Triton's public interface.
PROVEN = ("3.6.", "3.7.", "3.8.", "3.9.")


def launchers_are_proven() -> bool:
    """Whether this is one of the PROVEN versions of Triton."""
    from triton import __version__

    return bool(__version__.startswith(PROVEN))


def tf32_allowed() -> bool:
    """Whether torch allows TF32 in convolutions: whether `torch.backends.cudnn.conv.fp32_precision` is "tf32".

    Setting `torch.backends.cudnn.allow_tf32` changes it, too.
    """
    return bool(torch.backends.cudnn.conv.fp32_precision == "tf32")  # type: ignore[attr-defined]


def is_gpu(device: torch.device) -> bool:
    """Whether the device is a GPU of NVIDIA or AMD, which torch both calls cuda. Users expect kernels to run on it."""
    return device.type == "cuda"


@cache
def no_triton() -> str | None:
    """Return why Triton can not be imported. None if it can."""
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
    """Whether the kernels run in Triton's interpreter.

    They do if TRITON_INTERPRET=1 was set when they were first imported.
    """
    from triton.runtime import JITFunction

    from tritonconv.kernels.gather.fprop import fprop_kernel

    return not isinstance(fprop_kernel, JITFunction)


@cache
def gpu_of(device: torch.device) -> Gpu:
    """Return the GPU that a kernel on `device` runs on, or INTERPRETER if kernels run in Triton's interpreter.

    The host makes no TMA descriptors for it if Triton's launchers are not proven, because Triton's public interface
    would fill them at each launch. Raise torch's error if there is no GPU.
    """
    if interpreted():
        return INTERPRETER
    properties = torch.cuda.get_device_properties(device)
    # AMD's name is followed by the features of its configuration: gfx942:sramecc+:xnack-.
    amd = properties.gcnArchName.partition(":")[0] if torch.version.hip else None
    gpu = Gpu.of(amd or f"sm_{properties.major}{properties.minor}", properties.multi_processor_count, properties.name)
    return gpu if launchers_are_proven() else gpu.switched(host_descriptors=False)
