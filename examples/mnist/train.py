"""Train a small network to classify handwritten digits and to draw them again.

Its layers are Conv2d and ConvTranspose2d of tritonconv, or of torch.nn for comparison:

    python examples/mnist/train.py
    python examples/mnist/train.py --implementation torch --dtype bfloat16 --picture digits.png

After training, the script prints the accuracy on test images. Then it prints which implementation ran each
layer and why, and how far one training step of each implementation is from float64.

With --local, the script compares a locally connected layer with a convolution instead. It trains a classifier
with each of them, for several seeds, and prints the accuracies:

    python examples/mnist/train.py --local

To run it in a checkout where only torch, einops and scikit-learn are installed:

    PYTHONPATH=. python examples/mnist/train.py --data digits
"""

import sys
import time
from collections.abc import Iterable, Sequence

import arguments
import compare
import images
import local
import torch
from images import Images
from network import Network, autocast, build, loss_of, wide
from torch import Tensor

import tritonconv


def main() -> None:
    chosen = arguments.parse(sys.argv[1:], __doc__)
    # Layers this small gain little from more threads. Where cores are shared, threads would wait for one another.
    torch.set_num_threads(1)
    if chosen.local:
        local.main(chosen)
        return
    implementation, device, dtype = chosen.implementation, chosen.device, arguments.DTYPES[chosen.dtype]
    try:
        train, test = images.load(chosen.data, chosen.seed, chosen.limit)
        if chosen.picture:
            import picture
    except ModuleNotFoundError as missing:
        sys.exit(f'error: {missing}. Install what the examples need: pip install ".[examples]"')
    train, test = train.to(device, wide(dtype)), test.to(device, wide(dtype))
    torch.manual_seed(chosen.seed)
    network = build(implementation, train.pixels.shape[-1], device, dtype)
    try:
        with autocast(device, dtype):
            explanation = tritonconv.explain(network, test.pixels[: chosen.batch_size])
    except NotImplementedError as refusal:
        sys.exit(f"error: {refusal}")

    print(f"{len(train.labels)} training images, {len(test.labels)} test images; device {device}, dtype {chosen.dtype}")
    if device.type == "cuda" and implementation != "torch":
        with autocast(device, dtype):
            tritonconv.warmup(network, train.pixels[: chosen.batch_size])
    fit(network, train, chosen.epochs, chosen.batch_size, dtype)
    logits, reconstructions = predict(network, test.pixels, chosen.batch_size, dtype)
    print(f"test accuracy {100 * (logits.argmax(1) == test.labels).double().mean():.1f} %")
    if chosen.picture:
        picture.save(chosen.picture, test, logits.argmax(1), reconstructions)

    print()
    print("torch.nn runs all convolutions" if implementation == "torch" else explanation)
    print("\nErrors of one training step, relative to torch.nn in float64")
    print(compare.ERRORS + "\n")
    print(compare.table(network.state_dict(), compare.hardest(test, logits), dtype))


def fit(network: Network, train: Images, epochs: int, batch_size: int, dtype: torch.dtype) -> None:
    """Train `network` for `epochs`, and print loss, accuracy and time of each epoch."""
    device, count = train.pixels.device, len(train.labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    # The scaler multiplies the loss by a factor: without it, small gradients would vanish in float16.
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    network.train()
    for epoch in range(1, epochs + 1):
        title, start = f"epoch {epoch:2}/{epochs}", time.perf_counter()
        # The sums stay on the device. Reading the loss after each batch would make a GPU wait for Python.
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        for batch in progress(torch.randperm(count).to(device).split(batch_size), title):
            pixels, labels = shift(train.pixels[batch]), train.labels[batch]
            with autocast(device, dtype):
                logits, reconstruction = network(pixels)
                loss = loss_of(logits, reconstruction, pixels, labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            totals += torch.stack([loss.detach() * len(batch), (logits.argmax(1) == labels).sum()])
        schedule.step()
        mean_loss, correct = (totals / count).tolist()
        seconds = time.perf_counter() - start
        print(f"{title}  loss {mean_loss:.3f}  training accuracy {100 * correct:5.1f} %  {seconds:5.1f} s", flush=True)


def shift(pixels: Tensor) -> Tensor:
    """Return the batch, moved as a whole by a random number of pixels along each axis, to augment the training images.

    MNIST's images move by up to two pixels. Pixels that leave on one side come back on the other, but the rim of
    MNIST's images is empty. 8x8 images stay in place.
    """
    most = pixels.shape[-1] // 14
    along_h, along_w = torch.randint(-most, most + 1, (2,)).tolist()
    return pixels.roll((along_h, along_w), dims=(2, 3))


@torch.no_grad()
def predict(network: Network, pixels: Tensor, batch_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return logits and reconstructions of all images, in the dtype of `pixels`."""
    network.eval()
    with autocast(pixels.device, dtype):
        outputs = [network(batch) for batch in pixels.split(batch_size)]
    logits, reconstructions = (torch.cat(parts).to(pixels.dtype) for parts in zip(*outputs, strict=True))
    return logits, reconstructions


def progress(batches: Sequence[Tensor], title: str) -> Iterable[Tensor]:
    """Return the batches. Iterating shows a progress bar if the output is a terminal and rich is installed."""
    if not sys.stdout.isatty():
        return batches
    try:
        from rich.progress import track
    except ModuleNotFoundError:
        return batches
    return track(batches, title, transient=True)


if __name__ == "__main__":
    main()
