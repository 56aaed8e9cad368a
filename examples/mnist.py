"""Learn to read handwritten digits and to draw them again, with convolutions from torch.nn or from tritonconv.

    python examples/mnist.py
    python examples/mnist.py --implementation torch --dtype bfloat16 --picture digits.png

Where nothing is installed but torch, einops and scikit-learn, this runs in a checkout:

    PYTHONPATH=. python examples/mnist.py --data digits

Afterwards it says which implementation ran each layer and why, and how far each implementation is from float64.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import compare
import images
import torch
from images import Images
from network import Network, autocast, build, loss_of, wide
from torch import Tensor

import tritonconv

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def main() -> None:
    arguments = parse(sys.argv[1:])
    # Layers this small gain little from more threads, and where cores are shared, threads wait for one another.
    torch.set_num_threads(1)
    implementation, device, dtype = arguments.implementation, arguments.device, DTYPES[arguments.dtype]
    try:
        train, test = images.load(arguments.data, arguments.seed, arguments.limit)
        if arguments.picture:
            import picture
    except ModuleNotFoundError as missing:
        sys.exit(f'error: {missing}; pip install ".[examples]"')
    train, test = train.to(device, wide(dtype)), test.to(device, wide(dtype))
    torch.manual_seed(arguments.seed)
    network = build(implementation, train.pixels.shape[-1], device, dtype)
    try:
        with autocast(device, dtype):
            explanation = tritonconv.explain(network, test.pixels[: arguments.batch_size])
    except NotImplementedError as refusal:
        sys.exit(f"error: {refusal}")

    print(f"{len(train.labels)} images to learn from, {len(test.labels)} to test with; {device}, {arguments.dtype}")
    if device.type == "cuda" and implementation != "torch":
        with autocast(device, dtype):
            tritonconv.warmup(network, train.pixels[: arguments.batch_size])
    fit(network, train, arguments.epochs, arguments.batch_size, dtype)
    logits, reconstructions = predict(network, test.pixels, arguments.batch_size, dtype)
    print(f"test accuracy {100 * (logits.argmax(1) == test.labels).double().mean():.1f} %")
    if arguments.picture:
        picture.save(arguments.picture, test, logits.argmax(1), reconstructions)

    print("\nwhich implementation runs each convolution, and why\n")
    print("torch.nn runs them all" if implementation == "torch" else explanation)
    print("\none training step against torch.nn in float64: RMS and maximum of the relative error\n")
    print(compare.table(network.state_dict(), compare.hardest(test, logits), dtype))


def fit(network: Network, train: Images, epochs: int, batch_size: int, dtype: torch.dtype) -> None:
    """Train for `epochs`, with a line of output for each."""
    device, count = train.pixels.device, len(train.labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    # Without a factor on the loss, small gradients would vanish in float16.
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    network.train()
    for epoch in range(1, epochs + 1):
        title, start = f"epoch {epoch:2}/{epochs}", time.perf_counter()
        # Summed on the device: to read the loss after each batch would make a GPU wait for Python.
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
    """The batch, moved by up to two pixels, so that few images go further. MNIST's rim is empty; 8x8 images stay."""
    most = pixels.shape[-1] // 14
    along_h, along_w = torch.randint(-most, most + 1, (2,)).tolist()
    return pixels.roll((along_h, along_w), dims=(2, 3))


@torch.no_grad()
def predict(network: Network, pixels: Tensor, batch_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits and reconstructions of all images, in the dtype of `pixels`."""
    network.eval()
    with autocast(pixels.device, dtype):
        outputs = [network(batch) for batch in pixels.split(batch_size)]
    logits, reconstructions = (torch.cat(parts).to(pixels.dtype) for parts in zip(*outputs, strict=True))
    return logits, reconstructions


def progress(batches: Sequence[Tensor], title: str) -> Iterable[Tensor]:
    """The batches, behind a bar that vanishes with the last, where there is a terminal to draw on and rich to draw."""
    if not sys.stdout.isatty():
        return batches
    try:
        from rich.progress import track
    except ModuleNotFoundError:
        return batches
    return track(batches, title, transient=True)


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", choices=["mnist", "digits"], default="mnist", help="28x28 or 8x8 pixels")
    add("--implementation", choices=["auto", "triton", "reference", "torch"], default="auto")
    add("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda or cuda:1")
    add("--epochs", type=at_least(1), default=15)
    add("--batch-size", type=at_least(1), default=64)
    add("--dtype", choices=DTYPES, default="float32", help="the 16-bit ones by autocast")
    add("--seed", type=at_least(0), default=0)
    add("--limit", type=at_least(10), help="use only so many images, a fifth of them to test with")
    add("--picture", metavar="FILE", type=drawable, help="draw digits and their reconstructions: .png, .pdf or .svg")
    return parser.parse_args(words)


def device(word: str) -> torch.device:
    try:
        found = torch.empty(0, device=word).device
    except (AssertionError, RuntimeError) as error:
        raise argparse.ArgumentTypeError(str(error).splitlines()[0]) from None
    if found.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, but got {word}")
    return found


def at_least(smallest: int) -> Callable[[str], int]:
    def integer(word: str) -> int:
        if int(word) < smallest:
            raise argparse.ArgumentTypeError(f"must be at least {smallest}, but got {word}")
        return int(word)

    return integer


def drawable(word: str) -> Path:
    path = Path(word)
    if path.suffix not in (".png", ".pdf", ".svg") or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a .png, .pdf or .svg in a folder that exists, but got {word}")
    return path


if __name__ == "__main__":
    main()
