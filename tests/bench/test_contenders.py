"""The contenders compute the same, each in the way that its name says."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from bench.layers import Layer, read, select
from bench.run import check, contenders, grouped, measure, unfolded
from bench.run.contenders import PASSES, Pass, Problem, at_its_best, computation, operators_of, refusal
from tests.bench.made_up import CEILINGS
from tests.bench.test_check import ENVIRONMENT, VARYING
from tritonconv import LocallyConnected2d
from tritonconv.call import Call
from tritonconv.tools.explain import Listener

CPU = torch.device("cpu")
LAYERS = {layer.name: layer.scaled_down() for layer in read()}


def problem_of(layer: Layer, dtype: str = "float32") -> Problem:
    return Problem.draw(layer, dtype, CPU)


def assert_right(contender: str, of: Pass, layer: Layer, looser: float = 1) -> None:
    """Assert that the contender's results of a pass are those of float64."""
    problem = problem_of(layer)
    results = computation(contender, of, problem)()
    assert len(results) == len(operators_of(of, layer)) == len(check.samples(of, problem))
    check.assert_right(of, problem, results, check.samples(of, problem), looser)


@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize("contender", ["torch", "torch-nchw", "reference"])
def test_contenders_compute_the_same(contender: str, of: Pass) -> None:
    for layer in select("rn50_c3_3x3_s2,unet_up1,resnext50_32x4d_c2_g32,fsrcnn_deconv_9x9_s3"):
        assert refusal(contender, of, problem_of(layer.scaled_down())) is None
        assert_right(contender, of, layer.scaled_down())


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave functions as they are instead of compiling them."""
    monkeypatch.setattr(contenders, "compiled_by_torch", contenders.unchanged)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize("contender", ["reference", "unfold-compile", "grouped", "loop"])
def test_contenders_compute_the_same_if_the_weight_varies(contender: str, of: Pass) -> None:
    """They are right in the benchmark's layers, and with padding, dilation and groups."""
    local = next(layer for layer in VARYING if layer.family == "local")
    transposed = replace(local.case, transposed=True, size=(3, 4))
    layers = [
        *(layer for layer in LAYERS.values() if layer.case.varies),
        *VARYING,
        Layer(transposed, transposed.name_of_function, "none"),
    ]
    able = [layer for layer in layers if contenders.unsuited(contender, layer.family) is None]
    assert len(able) == {"loop": 8, "grouped": 12}.get(contender, 16)
    for layer in able:
        assert_right(contender, of, layer, measure.LOOSER)


def test_one_grouped_convolution_computes_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples, or locations, are groups: their number is multiplied by that of the layer's own groups."""
    groups: list[int] = []
    contiguous: list[bool] = []

    def counted(function: Any, *operands: Any, **arguments: Any) -> Any:
        groups.append(arguments["groups"])
        contiguous.extend(each.is_contiguous() for each in operands if isinstance(each, torch.Tensor))
        return function(*operands, **arguments)

    for name in ("conv2d", "conv_transpose2d", "conv2d_input", "conv2d_weight"):
        monkeypatch.setattr(grouped, name, partial(counted, getattr(grouped, name)))
    for layer in VARYING[:2]:
        geometry = layer.geometry
        products = geometry.B if layer.family == "per sample" else geometry.P * geometry.Q
        for of in PASSES:
            groups.clear()
            assert_right("grouped", of, layer, measure.LOOSER)
            assert groups == [2 * products]
    assert 2 * products == 2 * 4 * 8
    assert all(contiguous)


def test_folding_and_unfolding_are_views() -> None:
    """Only the patches are copied, because a convolution needs them in a row."""
    sample = problem_of(LAYERS["stylegan2_modulated_512_at_32"]).all_contiguous()
    assert grouped.one_image(sample.x).data_ptr() == sample.x.data_ptr()
    assert grouped.one_image(sample.y).data_ptr() == sample.y.data_ptr()
    assert sample.weight.is_contiguous()
    local = problem_of(LAYERS["local_3x3_64_at_14"])
    assert grouped.kernels(local.weight).data_ptr() == local.weight.data_ptr()
    assert grouped.features(local.y, local.geometry).data_ptr() == local.y.data_ptr()
    patches = unfolded.patches(local.x, local.geometry)
    assert patches.data_ptr() == local.x.data_ptr()
    assert patches.shape == (2, 32, 2, 2, 3, 3)


@pytest.fixture
def quickly_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace functions and their gradients as torch.compile does, but generate no code."""
    plain = torch.compile

    def traced(function: Any, mode: str | None, **options: Any) -> Any:
        return plain(function, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", traced)


@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.filterwarnings("ignore")  # torch.compile warns
@pytest.mark.parametrize("of", PASSES)
@pytest.mark.parametrize(
    ("contender", "name", "dtype"),
    [
        ("compile", "rn50_c3_3x3_s2", "float32"),
        ("compile", "dcgan_up_512_to_256_4x4_s2", "tf32"),
        ("unfold-compile", "stylegan2_modulated_512_at_32", "float32"),
        ("unfold-compile", "kpn_5x5_8_to_1_at_128", "tf32"),
        ("unfold-compile", "deepface_l5_local_transpose_7x7_s2", "float32"),
    ],
)
def test_a_pass_is_compiled_as_a_whole(contender: str, name: str, dtype: str, of: Pass) -> None:
    """It is one graph, which is right, and it is not compiled anew while it is timed."""
    problem = problem_of(LAYERS[name], dtype)
    with at_its_best(dtype):
        before = counters["stats"]["unique_graphs"]
        compiled = computation(contender, of, problem)
        check.assert_right(of, problem, compiled(), check.samples(of, problem), measure.LOOSER)
        compiled()
        assert counters["stats"]["unique_graphs"] == before + 1


@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.filterwarnings("ignore")
def test_compile_compiles_every_layer() -> None:
    """Each layer is compiled, also if there are more layers than torch keeps versions of one function."""
    for layer in list(LAYERS.values())[:10]:
        before = counters["stats"]["unique_graphs"]
        assert_right("compile", "fprop", layer, measure.LOOSER)
        assert counters["stats"]["unique_graphs"] == before + 1


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_an_unfold_view_is_compiled_to_code() -> None:
    layer = LAYERS["condconv_effb0_1x1_112_to_672_at_14"]
    assert refusal("unfold-compile", "fprop", problem_of(layer)) is None
    assert_right("unfold-compile", "fprop", layer, measure.LOOSER)


@pytest.mark.parametrize(
    "name", ["local_transpose_3x3_64_at_12", "condconv_effb0_1x1_112_to_672_at_14", "kpn_5x5_8_to_1_at_128"]
)
def test_the_fused_layers_whose_weight_varies_compete_in_both_formats(name: str, device: str) -> None:
    """In both formats, the weight keeps its layout with channels last."""
    layer = LAYERS[name]
    problem = Problem.draw(layer, "float32", torch.device(device))
    assert problem.contiguous().weight is problem.weight
    for contender, layout in (("triton", torch.channels_last), ("triton-nchw", torch.contiguous_format)):
        (result,) = computation(contender, problem.forward, problem)()
        check.assert_right(problem.forward, problem, [result], check.samples(problem.forward, problem))
        assert result.is_contiguous(memory_format=layout)


def test_a_local_weight_lies_as_its_layer_keeps_it() -> None:
    weight = problem_of(LAYERS["local_3x3_64_at_14"]).weight
    assert weight.stride() == LocallyConnected2d(32, 32, 3, 4, device="meta").weight.stride()


def test_the_fused_layers_compete_in_both_formats(device: str) -> None:
    """The fused layers run on the GPU, or in Triton's interpreter on a problem of a few steps."""
    problem = Problem.draw(LAYERS["rn50_c5_1x1_s2_down"], "float32", torch.device(device))
    for contender, channels_last in (("triton", True), ("triton-nchw", False)):
        heard: list[Call] = []
        with Listener(heard.append):
            (result,) = computation(contender, "fprop", problem)()
        assert [(call.name, call.settings.implementation) for call in heard] == [("fprop", "triton")]
        assert result.is_contiguous(memory_format=torch.channels_last) == channels_last
        (row,) = measure.measure(problem, "fprop", [contender], CEILINGS, ENVIRONMENT)
        assert (row["status"], row["kernels"]) == ("ok", {"fprop": "f"})
        assert list(row["tile"]) == ["fprop"]
        assert row["tuned"] == {"fprop": False} or device == "cuda"


def test_operands_lie_in_the_format_that_a_contender_names() -> None:
    """Operands are channels_last, or NCHW for contenders of that name."""
    problem = problem_of(LAYERS["rn50_c2_3x3"])
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (problem.x, problem.weight, problem.y))
    assert all(t.is_contiguous() for t in (problem.contiguous().x, problem.contiguous().weight, problem.contiguous().y))
    (nchw,) = computation("torch-nchw", "fprop", problem)()
    assert nchw.is_contiguous()


def switches() -> dict[str, Any]:
    """Return torch's switches for speed. torch raises an exception if the old and the new ones differ."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "new": [each.fp32_precision for each in (cudnn, cudnn.conv, matmul)],
        "old": [cudnn.allow_tf32, matmul.allow_tf32, torch.get_float32_matmul_precision()],
        "cudnn": [cudnn.benchmark, cudnn.benchmark_limit, cudnn.enabled, cudnn.deterministic],
    }


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "tf32"])
def test_torch_competes_at_its_best(dtype: str) -> None:
    """cuDNN tries everything. "tf32" allows TF32. torch.compile reads old and new switches, so both say the same."""
    before = switches()
    with at_its_best(dtype):
        inside = switches()
        assert torch.backends.cudnn.benchmark
        assert torch.backends.cudnn.benchmark_limit in (0, None)
    tf32 = dtype == "tf32"
    assert inside["new"] == ["tf32" if tf32 else "ieee"] * 3
    assert inside["old"] == [tf32, tf32, "high" if tf32 else "highest"]
    assert switches() == before
