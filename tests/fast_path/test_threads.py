"""The fast path in several threads at once, and in replicas and copies of a module."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tritonconv
from tests.support.fast_path import same_bits
from tests.support.oracle import assert_close
from tests.support.switches import many_switches
from tests.support.ways import without_fast_path

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]

THREADS = 4


def at_once(work: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """Return what `work` returns for each number, each in a thread of its own. All begin together, and often switch."""
    together = threading.Barrier(threads)

    def begin(number: int) -> Any:
        together.wait()
        return work(number)

    with many_switches(), ThreadPoolExecutor(threads) as executor:
        return list(executor.map(begin, range(threads)))


def layer(number: int, device: str) -> nn.Module:
    """Return one of several layers of different kinds and sizes. They take images of four channels."""
    torch.manual_seed(number)
    kinds: list[Callable[[], nn.Module]] = [
        lambda: tritonconv.Conv2d(4, 4, 3, padding=1),
        lambda: tritonconv.ConvTranspose2d(4, 6, 2),
        lambda: tritonconv.Conv2d(4, 4, 3, groups=2, bias=False),
        lambda: tritonconv.LocallyConnected2d(4, 2, 3, 4),
    ]
    return kinds[number % len(kinds)]().to(device)


def images(number: int, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(1, 4, 4, 4, generator=generator).to(device).requires_grad_()


def step(module: nn.Module, number: int, device: str) -> list[Tensor]:
    """Return the result for images of this number, and all gradients."""
    x = images(number, device)
    y = module(x)
    return [y.detach(), *torch.autograd.grad(y.square().mean(), [x, *module.parameters()])]


def warm_up(layers: list[nn.Module], device: str, long_ways: list[str]) -> None:
    """Take the steps after which all that a step needs is kept, and assert that it is."""
    for each in layers:
        step(each, 0, device)
        step(each, 0, device)
        long_ways.clear()
        step(each, 0, device)
        assert not long_ways


@pytest.mark.parametrize("alike", [True, False])
def test_threads_compute_what_one_does(alike: bool, device: str, long_ways: list[str]) -> None:
    """Each thread trains on images of its own, all by the same layer, or each by another one."""
    layers = [layer(0 if alike else number, device) for number in range(THREADS)]
    if alike:
        layers = layers[:1] * THREADS
    warm_up(layers, device, long_ways)
    expected = [[step(each, 10 * i + n, device) for n in range(2)] for i, each in enumerate(layers)]
    assert not same_bits(expected[0][0], expected[0][1])
    found = at_once(lambda i: [step(layers[i], 10 * i + n, device) for n in range(2)])
    assert not long_ways
    for mine, right in zip(found, expected, strict=True):
        assert all(map(same_bits, mine, right))


def test_threads_keep_calls_at_once(device: str, long_ways: list[str]) -> None:
    """Nothing is kept when they begin. Each thread computes the right bits, and later steps are fast."""
    layers = [layer(number, device) for number in range(THREADS)]
    with without_fast_path():
        expected = [[step(each, n, device) for n in range(2)] for each in layers]
    found = at_once(lambda i: [step(layers[(i + n) % THREADS], n, device) for n in range(2)])
    for i, mine in enumerate(found):
        for n, numbers in enumerate(mine):
            assert same_bits(numbers, expected[(i + n) % THREADS][n])
    warm_up(layers, device, long_ways)


def modes(device: str) -> dict[str, Callable[[], Any]]:
    """Return modes that hold for one thread, by their names."""
    return {
        "plain": nullcontext,
        "without gradients": torch.no_grad,
        "inference mode": torch.inference_mode,
        "autocast": partial(torch.autocast, device, torch.bfloat16),
        "reference": partial(tritonconv.using, "reference"),
        "default device": partial(torch.device, "meta"),
    }


def test_modes_hold_for_one_thread(device: str, long_ways: list[str]) -> None:
    """Threads in different modes call the same layer in turn. Each gets what it gets alone in its mode."""
    module, x, entered = layer(0, device), images(0, device).detach(), [*modes(device)]

    def called(name: str, together: threading.Barrier) -> list[tuple[Any, ...]]:
        found = []
        with modes(device)[name]():
            for _ in range(3):
                together.wait()
                y = module(x)
                found.append((y.dtype, y.requires_grad, y.is_inference(), y.device.type, y.tolist()))
        return found

    alone = [called(name, threading.Barrier(1)) for name in entered]
    assert [each[0][:4] for each in alone] == [
        (torch.float32, True, False, device),
        (torch.float32, False, False, device),
        (torch.float32, False, True, device),
        (torch.bfloat16, True, False, device),
        (torch.float32, True, False, device),
        (torch.float32, True, False, device),
    ]
    taken = []
    for name in entered:
        long_ways.clear()
        called(name, threading.Barrier(1))
        taken.append(len(long_ways))
    assert (taken[0], taken[1], taken[3:]) == (0, 0, [0, 3, 0])
    long_ways.clear()
    together = threading.Barrier(len(entered))
    found = at_once(lambda number: called(entered[number], together), len(entered))
    assert found == alone
    assert len(long_ways) == sum(taken)


@pytest.mark.parametrize("mode", ["plain", "without gradients", "autocast", "default device"])
def test_backward_in_another_thread(mode: str, device: str, long_ways: list[str]) -> None:
    """Its mode does not change the gradients, nor do those of forward's thread."""
    module = layer(0, device)
    warm_up([module], device, long_ways)
    expected = step(module, 1, device)
    x = images(1, device)
    y = module(x)
    loss = y.square().mean()

    def gradients(_: int) -> Any:
        with modes(device)[mode]():
            return torch.autograd.grad(loss, [x, *module.parameters()])

    with torch.no_grad(), tritonconv.using("reference"):
        (found,) = at_once(gradients, 1)
    assert same_bits([y.detach(), *found], expected)
    assert not long_ways


def test_one_graph_in_two_threads(device: str, long_ways: list[str]) -> None:
    """The same graph is differentiated in all threads at once."""
    module = layer(0, device)
    warm_up([module], device, long_ways)
    expected = step(module, 1, device)
    x = images(1, device)
    y = module(x)
    loss = y.square().mean()
    inputs = [x, *module.parameters()]
    for found in at_once(lambda _: torch.autograd.grad(loss, inputs, retain_graph=True)):
        assert same_bits([y.detach(), *found], expected)
    assert not long_ways


def replicas(module: Any) -> list[Any]:
    """Return replicas as those of torch's DataParallel, whose weights are results of an operator, and no parameters."""
    found = []
    for _ in range(THREADS):
        replica = module._replicate_for_data_parallel()
        for name, weight in module.named_parameters():
            setattr(replica, name, weight.clone())
        found.append(replica)
    return found


def test_replicas_in_threads(device: str, long_ways: list[str]) -> None:
    """Each replica computes a part of the batch in its thread. One backward pass adds their gradients up."""
    module = layer(0, device)
    warm_up([module], device, long_ways)
    parts = [images(number, device) for number in range(THREADS)]
    expected = [step(module, number, device) for number in range(THREADS)]
    copies = replicas(module)
    assert not any([*each.parameters()] for each in copies)
    results = at_once(lambda number: copies[number](parts[number]))
    for y, right in zip(results, expected, strict=True):
        assert torch.equal(y, right[0])
    loss = sum(y.square().mean() for y in results)
    found = torch.autograd.grad(loss, [*parts, *module.parameters()])
    for number, gradient in enumerate(found[:THREADS]):
        assert torch.equal(gradient, expected[number][1])
    for place, gradient in enumerate(found[THREADS:], 2):
        exact = torch.stack([right[place].double() for right in expected]).sum(0)
        assert_close(gradient, exact, "float32")
    assert not long_ways


def test_deep_copies_in_threads(device: str, long_ways: list[str]) -> None:
    """Copies of a layer find what the layer has kept, and keep weights of their own."""
    module = layer(0, device)
    warm_up([module], device, long_ways)
    copies = [copy.deepcopy(module) for _ in range(THREADS)]
    with torch.no_grad():
        for number, each in enumerate(copies):
            each.weight.mul_(number + 1)
    expected = [step(each, 0, device) for each in copies]
    assert not same_bits(expected[0], expected[1])
    found = at_once(lambda number: step(copies[number], 0, device))
    assert all(map(same_bits, found, expected))
    assert not long_ways
