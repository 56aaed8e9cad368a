"""`from_conv2d` and `from_conv_transpose2d` refuse layers that compute something else than those of torch.nn."""

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import tritonconv
from tests.support.local_layers import INPUT_SIZE, PACKAGES, filled, integers
from tritonconv import reference
from tritonconv.reference.torch_rules.overrides import why_not_as_torch

pytestmark = pytest.mark.usefixtures("on_reference")
FACTORIES = [
    (nn.Conv2d, "LocallyConnected2d", "from_conv2d"),
    (nn.ConvTranspose2d, "LocallyConnectedTranspose2d", "from_conv_transpose2d"),
]


def converted(package: Any, conv: Any) -> Any:
    """Return the locally connected layer that `package` makes of a convolution of either kind."""
    for base, name, factory in FACTORIES:
        if isinstance(conv, base):
            return getattr(getattr(package, name), factory)(conv, INPUT_SIZE)
    raise AssertionError(conv)


def standardised(base: Any) -> Any:
    class Standardised(base):
        def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
            return super().forward(input) / self.weight.std()

    return Standardised


def padded(base: Any) -> Any:
    class Causal(base):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return super()._conv_forward(nn.functional.pad(input, (1, 0)), weight, bias)

    return Causal


def wrapped(base: Any) -> Any:
    class Wrapped(base):
        @functools.wraps(base.forward)
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    return Wrapped


def called(base: Any) -> Any:
    class Called(base):
        def __call__(self, input: Tensor) -> Tensor:
            return 2 * super().__call__(input)

    return Called


def larger(base: Any) -> Any:
    class Larger(base):
        def _output_padding(self, *args: Any) -> list[int]:
            return [1, 1]

    return Larger


def inherited(base: Any) -> Any:
    class Heir(standardised(base)):
        pass

    return Heir


CLASSES = {"forward": standardised, "_conv_forward": padded, "__call__": called, "_output_padding": larger}


@PACKAGES
@pytest.mark.parametrize("of", [nn, reference, tritonconv], ids=["torch", "reference", "tritonconv"])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
@pytest.mark.parametrize(("method", "change"), [*CLASSES.items(), ("forward", wrapped), ("forward", inherited)])
def test_an_overridden_method(package: Any, of: Any, name: str, method: str, change: Callable[[Any], Any]) -> None:
    """The mark of our own overrides is not inherited, and `functools.wraps` does not feign it."""
    conv = change(getattr(of, name))(4, 6, (3, 2), stride=2)
    owner = next(each.__name__ for each in type(conv).__mro__ if method in vars(each))
    said = rf"expected a layer that computes what torch\.nn\.{name} does, but `{method}` is overridden by the class "
    with pytest.raises(TypeError, match=rf"^{said}[\w.<>]*{owner}, which the new layer would not run\. "):
        converted(package, conv)


def test_fake_quantisation() -> None:
    conv = torch.ao.nn.qat.Conv2d(4, 6, 3, qconfig=torch.ao.quantization.get_default_qat_qconfig())
    with pytest.raises(TypeError, match=r"`forward` is overridden by the class torch\.ao\.nn\.qat\.modules\.conv\."):
        converted(reference, conv)


@PACKAGES
@pytest.mark.parametrize("base", [nn.Conv2d, tritonconv.ConvTranspose2d])
def test_a_replaced_forward(package: Any, base: Any) -> None:
    conv = base(4, 6, 3)
    conv.forward = MethodType(lambda self, input: 2 * base.forward(self, input), conv)
    with pytest.raises(TypeError, match=rf"but `forward` of this {base.__name__} was replaced, which the new layer"):
        converted(package, conv)


HOOKS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "pre": (lambda conv: conv.register_forward_pre_hook(print), r"forward pre-hooks \(print\)"),
    "forward": (lambda conv: conv.register_forward_hook(print), r"forward hooks \(print\)"),
    "backward": (lambda conv: conv.register_full_backward_hook(print), r"backward hooks \(print\)"),
    "pre-backward": (lambda conv: conv.register_full_backward_pre_hook(print), r"backward pre-hooks \(print\)"),
    "pruned": (lambda conv: prune.l1_unstructured(conv, "weight", 0.5), r"forward pre-hooks \(L1Unstructured\)"),
    "spectral_norm": (nn.utils.spectral_norm, r"forward pre-hooks \(SpectralNorm\)"),
    "weight_norm": (nn.utils.weight_norm, r"forward pre-hooks \(WeightNorm\)"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@PACKAGES
@pytest.mark.parametrize("base", [nn.Conv2d, tritonconv.ConvTranspose2d])
@pytest.mark.parametrize(("hook", "reason"), HOOKS.values(), ids=HOOKS)
def test_hooks(package: Any, base: Any, hook: Callable[[Any], Any], reason: str) -> None:
    conv = base(4, 6, 3)
    hook(conv)
    with pytest.raises(TypeError, match=rf"but this {base.__name__} has {reason}, which the .* Remove hooks first"):
        converted(package, conv)


@PACKAGES
@pytest.mark.parametrize("base", [nn.Conv2d, nn.ConvTranspose2d])
def test_what_was_pruned_for_good(package: Any, base: Any) -> None:
    """The remedy that the error names helps."""
    conv = filled(base(4, 6, (3, 2)))
    prune.l1_unstructured(conv, "weight", 0.5)
    prune.remove(conv, "weight")
    check_same(package, conv)


def check_same(package: Any, conv: Any) -> Any:
    """Convert `conv`, assert that the result computes what it does, on integers, and return the result."""
    assert why_not_as_torch(conv) is None
    layer, images = converted(package, conv), integers(2, 4, *INPUT_SIZE)
    assert torch.equal(layer(images), conv(images))
    return layer


def dull(base: Any) -> Any:
    class Dull(base):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.norm = nn.Identity()

        def extra_repr(self) -> str:
            return "dull"

        def reset_parameters(self) -> None:
            nn.init.zeros_(self.weight)

    return Dull


class Doubled(nn.Module):
    def forward(self, original: Tensor) -> Tensor:
        return original * 2


def doubled(conv: Any) -> Any:
    for name in ("weight", "bias"):
        nn.utils.parametrize.register_parametrization(conv, name, Doubled())
    return conv


@PACKAGES
@pytest.mark.parametrize("of", [nn, reference, tritonconv], ids=["torch", "reference", "tritonconv"])
@pytest.mark.parametrize("name", ["Conv2d", "ConvTranspose2d"])
def test_what_computes_as_torch_does(package: Any, of: Any, name: str) -> None:
    """Accepted are all six classes, subclasses that override nothing that computes, lazy and parametrized layers."""
    check_same(package, filled(getattr(of, name)(4, 6, (3, 2))))
    check_same(package, filled(dull(getattr(of, name))(4, 6, (3, 2))))
    check_same(package, doubled(filled(getattr(of, name)(4, 6, (3, 2)))))
    lazy = getattr(of, f"Lazy{name}")(6, (3, 2))
    with pytest.raises(TypeError, match="with initialized parameters"):
        converted(package, lazy)
    lazy(integers(2, 4, *INPUT_SIZE))
    check_same(package, filled(lazy))
    changed = doubled(filled(getattr(nn, name)(4, 6, (3, 2))))
    changed.__class__ = getattr(of, name) if of is not nn else type(changed)
    check_same(package, changed)


@PACKAGES
def test_a_lazy_layer_that_was_only_loaded(package: Any) -> None:
    """It has its parameters, but the number of channels is still missing."""
    lazy = nn.LazyConv2d(6, 3)
    lazy.load_state_dict(nn.Conv2d(4, 6, 3).state_dict())
    with pytest.raises(TypeError, match="with initialized parameters"):
        converted(package, lazy)


@pytest.mark.parametrize("outer", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("base", [nn.Conv2d, nn.ConvTranspose2d])
def test_parametrized_layers_are_not_frozen(base: Any, outer: Callable[[], Any]) -> None:
    """A parametrized weight needs a gradient if its parts do."""
    conv = doubled(base(4, 6, 3))
    conv.parametrizations.bias.original.requires_grad_(False)
    with outer():
        layer = converted(reference, conv)
        back = doubled(layer).to_conv2d() if base is nn.Conv2d else doubled(layer).to_conv_transpose2d()
    for module in (layer.parametrizations.weight, back.weight):
        assert all(
            parameter.requires_grad for parameter in ([module] if isinstance(module, Tensor) else module.parameters())
        )
    assert not back.bias.requires_grad
