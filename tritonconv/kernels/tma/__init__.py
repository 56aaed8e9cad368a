"""Kernels that copy whole blocks of pixels by TMA, on sm_90 and newer.

A block of pixels is BLOCK_B images by BLOCK_H rows by BLOCK_W columns. TMA knows where a tensor ends. Where a block
overhangs an edge of the image, also one of the leading edges, zeros arrive. So loads need no masks, and no addresses to
be computed. In the products of fprop and dgrad, channels are rows and pixels are columns. In this orientation both
operands stay in shared memory, whatever the shape of a block.

A TMA descriptor tells the hardware where a tensor lies. Each program builds its own TMA descriptors, so a launch costs
the host nothing more. Building them takes a program some microseconds. So fprop and dgrad are persistent kernels: a
program computes one tile after another with the same descriptors.
"""
