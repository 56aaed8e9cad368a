"""GPUs that tiles are chosen for, which need not be there."""

from tritonconv.gpu import Gpu

H200 = Gpu.of(90, 132, "NVIDIA H200")
H100, A100, RTX4090, MI300 = Gpu.of(90, 132), Gpu.of(80, 108), Gpu.of(89, 128), Gpu.of(0, 304)
