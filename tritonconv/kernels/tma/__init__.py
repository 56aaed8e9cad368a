"""The kernels that copy whole blocks of pixels by TMA, on sm_90 and newer.

A block is so many images, rows and columns. TMA knows where a tensor ends: what a block overhangs at any edge of the
image, leading ones included, arrives as zeros. So there are no masks and no addresses to compute. In the product,
channels are rows and pixels are columns. In this orientation both operands stay in shared memory, whatever the shape of
a block.

A TMA descriptor tells the hardware where a tensor lies. Each program builds its own descriptors, so a launch costs the
host nothing more. Building takes a program some microseconds, so it computes one tile after another with the same ones.
"""
