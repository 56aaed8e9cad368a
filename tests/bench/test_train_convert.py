"""`bench.train.convert` and the models: nothing but who computes the convolutions changes."""

import copy
import warnings
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import tritonconv
from bench.train import models
from bench.train.convert import convert
from bench.train.models import MODELS, Model
from tests.support.oracle import assert_close
from tests.support.processes import python
from tritonconv import reference

pytestmark = pytest.mark.usefixtures("on_reference")

SMALL = [model for model in MODELS.values() if model.package is None]


def losses_and_gradients(modules: nn.ModuleList, batch: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the loss of each module, and the sum of all gradients that these give to each parameter."""
    losses = [loss(*batch) for loss in modules]
    torch.stack(losses).sum().backward()
    return [*losses, *(parameter.grad for parameter in modules.parameters())]


def assert_converted_exactly(model: Model, layers: int) -> None:
    """Assert that so many layers are converted, and that losses and gradients stay the same in float64."""
    torch.manual_seed(0)
    theirs = nn.ModuleList(loss for loss, _ in model.build(model.tiny).values()).double()
    mine = copy.deepcopy(theirs)
    state = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    assert convert(mine, "reference") == layers
    assert {type(layer) for layer in mine.modules()}.isdisjoint({nn.Conv2d, nn.ConvTranspose2d})
    for name, tensor in mine.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    batch = tuple(
        each.double() if each.is_floating_point() else each for each in model.draw(model.tiny, torch.Generator())
    )
    torch.manual_seed(1)
    expected = losses_and_gradients(theirs, batch)
    torch.manual_seed(1)
    for got, wanted in zip(losses_and_gradients(mine, batch), expected, strict=True):
        # Batch norms amplify rounding: a gradient may be a difference of almost equal sums.
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "layers"), [("unet", 18), ("local", 3), ("dcgan", 4)])
def test_a_small_model_computes_the_same_with_tritonconv(name: str, layers: int) -> None:
    assert_converted_exactly(MODELS[name], layers)


LAYERS = {"resnet50": 53, "mobilenet_v3_large": 62, "convnext_tiny": 22, "efficientnet_b0": 81}


@pytest.mark.parametrize("name", LAYERS)
def test_a_package_s_model_computes_the_same_with_tritonconv(name: str) -> None:
    if reason := missing(MODELS[name]):
        pytest.skip(reason)
    assert_converted_exactly(MODELS[name], LAYERS[name])


def missing(model: Model) -> str | None:
    """Return why a model's package can not be used. Warnings of its import are no concern of these tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.missing()


def test_layers_get_their_class_and_implementation() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ConvTranspose2d(4, 2, 2),
        reference.LocallyConnected2d(2, 4, 3, 4),
        tritonconv.Conv2d(4, 4, 1),
        reference.Conv2d(4, 4, 1),
        nn.Linear(2, 2),
    )
    assert convert(model, "triton") == 5
    ours = [tritonconv.Conv2d, tritonconv.ConvTranspose2d, tritonconv.LocallyConnected2d, *[tritonconv.Conv2d] * 2]
    assert [type(layer) for layer in model] == [*ours, nn.Linear]
    assert [layer.implementation for layer in model[:5]] == ["triton"] * 5


def test_a_parametrized_convolution_is_converted() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3))).double()
    images = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    expected = model(images)
    assert convert(model) == 1
    assert_close(model(images), expected, "float64")


class Standardised(nn.Conv2d):
    """A convolution that overrides forward, like timm's weight standardisation."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.conv2d(input, self.weight / self.weight.norm(), self.bias)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (Standardised(2, 2, 3), "`forward` is overridden by the class tests.bench.test_train_convert.Standardised"),
        (nn.Conv3d(2, 2, 3), "tritonconv has no layer like Conv3d"),
        (nn.LazyConv2d(2, 3), "tritonconv has no layer like LazyConv2d"),
        (reference.LocallyConnectedTranspose2d(2, 2, 3, 4), "no layer like LocallyConnectedTranspose2d"),
    ],
)
def test_a_model_is_refused_if_a_convolution_would_be_left(layer: nn.Module, why: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Sequential(layer))
    with pytest.raises(ValueError, match=r"1 of 2 convolutions can not be converted: 1\.0 ") as raised:
        convert(model)
    assert why in str(raised.value)
    assert type(model[0]) is nn.Conv2d


def test_a_missing_package_is_a_reason() -> None:
    model = models.classifier("x", "no_such_package", "x")
    assert model.missing() == "no_such_package can not be imported: No module named 'no_such_package'"
    assert [each.missing() for each in SMALL] == [None] * 3


def test_operators_that_torchvision_lacks_on_a_cpu_are_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake package adds rules to an operator, as torchvision does, and is imported once that is declared."""
    declared: list[str] = []

    def fake_import(package: str) -> str:
        if package == "broken":
            raise RuntimeError("another reason")
        if len(declared) < 2:
            raise RuntimeError(f"operator torchvision::op{len(declared)} does not exist")
        return package

    monkeypatch.setattr(models, "import_module", fake_import)
    monkeypatch.setattr(torch.library, "define", lambda name, schema: declared.append(name))
    assert models.imported("torchvision") == "torchvision"
    assert declared == ["torchvision::op0", "torchvision::op1"]
    with pytest.raises(RuntimeError, match="another reason"):
        models.imported("broken")


def test_a_discriminator_does_not_train_the_generator() -> None:
    parts = MODELS["dcgan"].build(MODELS["dcgan"].tiny)
    batch = MODELS["dcgan"].draw(MODELS["dcgan"].tiny, torch.Generator())
    loss, trained = parts["discriminator"]
    loss(*batch).backward()
    _, other = parts["generator"]
    assert all(parameter.grad is not None for parameter in trained.parameters())
    assert all(parameter.grad is None for parameter in other.parameters())


@pytest.mark.parametrize("name", [*LAYERS])
def test_which_package_a_model_needs(name: str) -> None:
    package = MODELS[name].package
    assert package in ("torchvision", "timm")
    assert (missing(MODELS[name]) is None) == (find_spec(package) is not None)


# Prints how many operator calls a step of each small model has, and how many of them Triton would refuse, on an H100.
ON_AN_H100 = """
import torch
from bench.host import idle_gpu
idle_gpu.install(idle_gpu.IdleGpu())
from bench.train.convert import convert
from bench.train.models import MODELS
from tritonconv.tools.warmup import launches_of, step_calls
torch.set_num_threads(1)
for name in ("unet", "local", "dcgan"):
    model, calls = MODELS[name], []
    batch = model.draw(model.full, torch.Generator())
    for loss, _ in model.build(model.full).values():
        convert(loss, "triton")
        with torch.autocast("cpu", torch.bfloat16):
            calls += step_calls(loss, batch)
    print(name, len(calls), sum(not launches_of(call) for call in calls))
"""


def test_kernels_run_every_layer_on_a_gpu() -> None:
    """A U-Net has 18 convolutions, each with three operators, but for the gradient of the images."""
    pytest.importorskip("triton")
    done = python("-c", ON_AN_H100)
    assert done.stdout.splitlines() == [f"unet {3 * 18 - 1} 0", f"local {3 * 3 - 1} 0", "dcgan 62 0"], done.stderr
