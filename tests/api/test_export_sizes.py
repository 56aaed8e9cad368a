"""`torch.export` with named dynamic sizes, of strided and transposed layers of both packages."""

from types import ModuleType
from typing import Any

import pytest
import torch
from torch.export import Dim, export

import tritonconv
from tests.support.oracle import assert_close
from tritonconv import reference

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, from its compiler
    pytest.mark.usefixtures("on_reference"),
]

# Kernel size, stride and padding. A 2x2 kernel with stride 2 has H // 2 rows of positions, which torch may take for 0.
LAYERS = {
    "plain": ("Conv2d", (3, 1, 1)),
    "strided": ("Conv2d", (3, 2, 1)),
    "pointwise, strided": ("Conv2d", (1, 2, 0)),
    "first layer of a ResNet": ("Conv2d", (7, 2, 3)),
    "patches": ("Conv2d", (2, 2, 0)),
    "strided by three": ("Conv2d", (3, 3, 1)),
    "transposed": ("ConvTranspose2d", (3, 2, 1)),
    "transposed, even": ("ConvTranspose2d", (4, 2, 1)),
}
H, W, B = (Dim(name, min=least, max=64) for name, least in (("h", 8), ("w", 8), ("b", 2)))
NAMED: dict[str, dict[int, Any]] = {"rows": {2: H}, "all": {0: B, 2: H, 3: W}}
CHECKED = [
    *((reference, name, "rows") for name in LAYERS),
    *((reference, name, "all") for name in ("strided", "patches", "transposed")),
    *((tritonconv, name, "rows") for name in ("strided", "patches", "transposed")),
]


@pytest.mark.parametrize(("package", "name", "named"), CHECKED)
def test_named_sizes(package: ModuleType, name: str, named: str) -> None:
    """One exported program is right for even and odd sizes, also for other ones than it was exported with."""
    kind, arguments = LAYERS[name]
    if package is reference and kind == "ConvTranspose2d" and named == "rows" and torch.__version__ < (2, 13):
        pytest.skip("torch 2.11 can not prove that the sizes of `fold` fit together; torch 2.13 can")
    layer = getattr(package, kind)(3, 4, *arguments, dtype=torch.float64)
    oracle = getattr(torch.nn, kind)(3, 4, *arguments, dtype=torch.float64)
    oracle.load_state_dict(layer.state_dict())
    batch = 1 if named == "rows" else 3
    program = export(layer, (torch.randn(batch, 3, 12, 14).double(),), dynamic_shapes=(NAMED[named],)).module()
    for rows in (12, 13, 15, 20):
        x = torch.randn(batch, 3, rows, 14).double()
        assert_close(program(x), oracle(x), "float64")
