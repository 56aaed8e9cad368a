"""Descriptions of GPUs, so that tests can choose tiles for a GPU that this computer does not have."""

from tritonconv.gpu import Gpu

H200 = Gpu.of("sm_90", 132, "NVIDIA H200")
# A GPU that takes the H200's measured tiles, for which the cost model itself may choose others.
LIKE_AN_H200 = Gpu.of("sm_90", 120, "NVIDIA like an H200")
H100, A100, RTX4090, MI300 = Gpu.of("sm_90", 132), Gpu.of("sm_80", 108), Gpu.of("sm_89", 128), Gpu.of("gfx942", 304)
