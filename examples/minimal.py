"""A minimal training loop with tritonconv, to be copied: `python examples/minimal.py`.

The network learns to remove noise from images of squares. Nothing is downloaded. In a checkout that is not installed,
run `PYTHONPATH=. python examples/minimal.py`.
"""

import torch

import tritonconv

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)

model = torch.nn.Sequential(
    tritonconv.Conv2d(3, 16, 3, stride=2, padding=1),
    torch.nn.SiLU(),
    tritonconv.Conv2d(16, 16, 3, padding=1),
    torch.nn.SiLU(),
    tritonconv.ConvTranspose2d(16, 3, 4, stride=2, padding=1),
)
# Kernels load fastest if the channels of a pixel are adjacent in memory.
model.to(device, memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
# On a GPU, convolutions run in bfloat16. The weights stay in float32.
autocast = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def squares(count: int) -> torch.Tensor:
    """Return images (count, 3, 16, 16), each with one square of 6x6 pixels in a random color on black."""
    color = torch.rand(count, 3, 1, 1, device=device)
    first = torch.randint(0, 11, (2, count, 1, 1), device=device)
    pixel = torch.arange(16, device=device)
    rows, columns = pixel.view(1, -1, 1), pixel.view(1, 1, -1)
    inside = (first[0] <= rows) & (rows < first[0] + 6) & (first[1] <= columns) & (columns < first[1] + 6)
    return (inside.unsqueeze(1) * color).contiguous(memory_format=torch.channels_last)


def noisy(images: torch.Tensor) -> torch.Tensor:
    """Return the images plus normally distributed noise of standard deviation 0.3, in the same memory format."""
    return images + 0.3 * torch.randn_like(images)


images = noisy(squares(16))
with autocast:
    tritonconv.warmup(model, images)  # compiles the kernels of a training step, in parallel processes

for step in range(1, 101):
    wanted = squares(16)
    with autocast:
        loss = torch.nn.functional.mse_loss(model(noisy(wanted)), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == 1 or step % 20 == 0:
        print(f"step {step:3}  loss {loss.item():.4f}")

with autocast:
    print(tritonconv.explain(model, images))  # says which implementation runs each layer, and why
