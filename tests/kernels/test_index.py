"""The order in which programs take tiles equals the same order written as loops."""

import pytest
import torch
import triton
import triton.language as tl

from tritonconv.kernels.index import raster

pytestmark = [pytest.mark.first, pytest.mark.gpu]


@triton.jit(do_not_specialize=["tiles_m", "tiles_n"])
def raster_kernel(out_ptr, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    pid = tl.program_id(0)
    tile_m, tile_n = raster(pid, tiles_m, tiles_n, GROUP_M)
    tl.store(out_ptr + 2 * pid, tile_m)
    tl.store(out_ptr + 2 * pid + 1, tile_n)


@pytest.mark.parametrize(("tiles_m", "tiles_n"), [(1, 1), (7, 1), (1, 3), (7, 3), (6, 2), (2, 5)])
def test_columns_of_three_rows_take_every_tile_once(tiles_m: int, tiles_n: int, device: str) -> None:
    out = torch.full((tiles_m * tiles_n, 2), -99, dtype=torch.int32, device=device)
    raster_kernel[(tiles_m * tiles_n,)](out, tiles_m, tiles_n, GROUP_M=3)
    wanted = [
        [m, n] for first in range(0, tiles_m, 3) for n in range(tiles_n) for m in range(first, min(first + 3, tiles_m))
    ]
    assert out.tolist() == wanted
