"""GPUs that tiles are chosen for, which need not be there."""

from tritonconv.gpu import Device

H200 = Device.of(90, 132, "NVIDIA H200")
H100, A100, RTX4090, MI300 = Device.of(90, 132), Device.of(80, 108), Device.of(89, 128), Device.of(0, 304)
