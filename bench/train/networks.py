"""The small networks: a U-Net, a DCGAN and a locally connected classifier. All layers are torch's or the reference's.

torch has no locally connected layer. Its users write unfold + einsum, which is what the reference's layer does.
"""

import torch
from torch import Tensor, nn

from tritonconv import reference

# The length of the vector from which a generator makes an image.
NOISE = 64


def two_convolutions(channels: int, filters: int) -> nn.Sequential:
    """Return two 3x3 convolutions, each before a batch norm and a ReLU. The size of the image stays."""
    layers: list[nn.Module] = []
    for each in (channels, filters):
        layers += [nn.Conv2d(each, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """From images (B, channels, H, W), compute one logit for each pixel: (B, 1, H, W).

    The network halves the image `depth` times, and doubles it as often by transposed convolutions. Each time the
    features of the same size on the way down are put beside those on the way up. H and W are divisible by 2**depth.
    """

    def __init__(self, channels: int, width: int, depth: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            two_convolutions(*pair) for pair in zip([channels, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * each, each, 2, stride=2) for each in reversed(widths[:-1]))
        self.merge = nn.ModuleList(two_convolutions(2 * each, each) for each in reversed(widths[:-1]))
        self.pool, self.logits = nn.MaxPool2d(2), nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        features, held = images, []
        for level, block in enumerate(self.down):
            features = block(self.pool(features) if level else features)
            held.append(features)
        held.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            features = merge(torch.cat([up(features), held.pop()], 1))
        logits: Tensor = self.logits(features)
        return logits


def generator(channels: int, size: int, width: int) -> nn.Sequential:
    """Return DCGAN's generator: from noise (B, NOISE, 1, 1) to images (B, channels, size, size) between -1 and 1.

    Its layers are transposed convolutions. `size` is a power of two, and at least 8.
    """
    filters = width * size // 8
    layers: list[nn.Module] = [nn.ConvTranspose2d(NOISE, filters, 4, bias=False)]
    while filters > width:
        layers += [nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(filters, filters // 2, 4, stride=2, padding=1, bias=False)]
        filters //= 2
    layers += [nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]
    return initialised(nn.Sequential(*layers, nn.ConvTranspose2d(filters, channels, 4, 2, 1), nn.Tanh()))


def discriminator(channels: int, size: int, width: int) -> nn.Sequential:
    """Return DCGAN's discriminator: from images (B, channels, size, size) to one logit each, (B, 1, 1, 1)."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
    filters = width
    while filters < width * size // 8:
        layers += [nn.Conv2d(filters, 2 * filters, 4, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(2 * filters), nn.LeakyReLU(0.2, inplace=True)]
        filters *= 2
    return initialised(nn.Sequential(*layers, nn.Conv2d(filters, 1, 4)))


def initialised(network: nn.Sequential) -> nn.Sequential:
    """Draw the weights of all convolutions as DCGAN does: with a standard deviation of 0.02. Return the network."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.02)
    return network


def local_classifier(channels: int, size: int, width: int, classes: int = 10) -> nn.Sequential:
    """Return a classifier of images (B, channels, size, size) with two locally connected layers after a convolution."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(inplace=True),
        reference.LocallyConnected2d(width, width, 3, size, padding=1),
        nn.ReLU(inplace=True),
        reference.LocallyConnected2d(width, 2 * width, 3, size, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(2 * width * 16, classes),
    )
