"""The epilogue of both families of kernels: add the bias and store, unless TMA copies whole blocks out."""

import triton
import triton.language as tl


@triton.jit
def store_result(
    result_ptr,
    result_strides,
    bias_ptr,
    stride_bias_n,
    accumulator,
    pixel,
    g,
    N,
    first_n,
    valid_m,
    BIAS_VARIES: tl.constexpr,
    VECTOR: tl.constexpr,
    WIDE: tl.constexpr,
):
    """result[b, g*N + n, h, w] = bias[g*N + n] + accumulator[m, n - first_n], rounded once

    for each valid m, and first_n <= n < N. `pixel` is (b, h, w): the image, row and column of each m.
    `result_strides` are the strides over b, n, h and w. `bias_ptr` may be None. If BIAS_VARIES, it points to the bias
    of this sample and pixel, whose channels are stride_bias_n apart. Otherwise the bias lies without gaps.

    Stores take VECTOR channels at once. If that is more than one, channels are adjacent in memory, and N and the other
    strides are multiples of VECTOR. The strides over b, h and w are passed divided by VECTOR. If WIDE, or if VECTOR is
    more than 1, offsets into the result are 64-bit. Otherwise they are 32-bit, which saves registers.
    """
    BLOCK_M: tl.constexpr = accumulator.shape[0]
    BLOCK_N: tl.constexpr = accumulator.shape[1]
    result_stride_b, result_stride_n, result_stride_h, result_stride_w = result_strides
    b, h, w = pixel
    n = first_n + tl.arange(0, BLOCK_N)
    valid_n = n < N
    if bias_ptr is not None:
        if BIAS_VARIES:
            bias = tl.load(bias_ptr + (g * N + n) * stride_bias_n, mask=valid_n, other=0.0)
        else:
            bias = tl.load(bias_ptr + g * N + n, mask=valid_n, other=0.0)
        accumulator += bias.to(tl.float32)[None, :]
    result = accumulator.to(result_ptr.dtype.element_ty)
    # The gather kernels widen b and it is narrowed here; the stride over n is widened only where it is used. Neither
    # changes a value. Written more simply, tests/bench/test_compiled_kernels.py finds a few bytes of register spills in
    # the float32 tiles.
    if VECTOR == 1 and WIDE:
        result_stride_n = result_stride_n.to(tl.int64)
    if VECTOR > 1 or WIDE:
        result_stride_b = result_stride_b.to(tl.int64) * VECTOR
        result_stride_h = result_stride_h.to(tl.int64) * VECTOR
        result_stride_w = result_stride_w.to(tl.int64) * VECTOR
    rows = b.to(tl.int32) * result_stride_b + h * result_stride_h + w * result_stride_w
    if VECTOR > 1:
        result_ptrs = result_ptr + (rows[:, None] + (g * N + n)[None, :])
        tl.store(result_ptrs, result, mask=valid_m[:, None] & valid_n[None, :])
    else:
        first_n += (g * N).to(tl.int32)
        end_n = (g * N).to(tl.int32) + N
        # Elements stored one by one take a register each for their addresses: only half of them fit at a time.
        first_half, second_half = tl.split(tl.reshape(result, (BLOCK_M, 2, BLOCK_N // 2)).permute(0, 2, 1))
        store_transposed(
            result_ptr=result_ptr,
            result_stride_n=result_stride_n,
            tile=first_half,
            rows=rows,
            valid_m=valid_m,
            first_n=first_n,
            end_n=end_n,
        )
        store_transposed(
            result_ptr=result_ptr,
            result_stride_n=result_stride_n,
            tile=second_half,
            rows=rows,
            valid_m=valid_m,
            first_n=first_n + BLOCK_N // 2,
            end_n=end_n,
        )


@triton.jit
def store_transposed(result_ptr, result_stride_n, tile, rows, valid_m, first_n, end_n):
    """Store `tile` (M, N) with neighbouring threads on neighbouring rows, which are adjacent in NCHW.

    `rows` has the offset of each row, and the columns are channels from first_n on. Rows that are not valid, and
    channels from end_n on, are left out.
    """
    n = first_n + tl.arange(0, tile.shape[1])
    offsets = (n * result_stride_n)[:, None] + rows[None, :]
    tl.store(result_ptr + offsets, tl.trans(tile), mask=(n < end_n)[:, None] & valid_m[None, :])
