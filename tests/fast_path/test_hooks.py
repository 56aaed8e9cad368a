"""Hooks on tensors, gradients and modules, and on nodes of autograd's graph, in a training by the fast path.

It takes three steps with other images, and must give the same bits as a training that only takes the long way.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.training import FAST, LONG, Step, network, stepping, trained

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.oldest]


# Adds hooks to a model, which may append tensors to the list. A step then returns these, too.
Adding = Callable[[nn.Sequential, list[Tensor]], object]


def on_weights(model: nn.Sequential, _: list[Tensor]) -> None:
    """Change each gradient of a weight before it is added up."""
    for each in model.parameters():
        each.register_hook(lambda gradient: 2 * gradient)


def on_accumulation(model: nn.Sequential, seen: list[Tensor]) -> Any:
    """Note what the nodes that add up gradients are given, and have added up."""
    nodes = [each.expand_as(each).grad_fn.next_functions[0][0] for each in model.parameters()]  # type: ignore[union-attr]
    for node, each in zip(nodes, model.parameters(), strict=True):
        node.register_prehook(lambda gradients: seen.append(gradients[0].clone()))
        node.register_hook(lambda *_, of=each: seen.append(of.grad.clone()))
    return nodes  # a leaf's node lives only as long as something refers to it


def after_accumulation(model: nn.Sequential, seen: list[Tensor]) -> None:
    for each in model.parameters():
        each.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.clone()))


def optimizer_in_backward(model: nn.Sequential, seen: list[Tensor]) -> None:
    """Change each weight as soon as its gradient is added up, while backward goes on."""

    def optimize(weight: Tensor) -> None:
        assert weight.grad is not None
        seen.append(weight.grad)
        with torch.no_grad():
            weight -= weight.grad
        weight.grad = None

    for each in model.parameters():
        each.register_post_accumulate_grad_hook(optimize)


def of_modules(model: nn.Sequential, seen: list[Tensor]) -> None:
    """Note all gradients of modules, and change those of their results and images."""

    def before(_: nn.Module, gradients: Any) -> Any:
        seen.extend(gradients)
        return tuple(2 * each for each in gradients)

    def after(_: nn.Module, of_inputs: Any, of_results: Any) -> Any:
        seen.extend(each for each in (*of_inputs, *of_results) if each is not None)
        return tuple(None if each is None else -each for each in of_inputs)

    for layer in model:
        layer.register_full_backward_pre_hook(before)
        layer.register_full_backward_hook(after)


def of_results(model: nn.Sequential, seen: list[Tensor]) -> None:
    """Note the gradients of results, and change them to tensors with other strides."""

    def turned(gradient: Tensor) -> Tensor:
        seen.append(gradient.clone())
        return gradient.transpose(2, 3).contiguous().transpose(2, 3)

    def add(_: nn.Module, images: Any, y: Tensor) -> None:
        y.register_hook(turned)

    for layer in model:
        layer.register_forward_hook(add)


def of_nodes(model: nn.Sequential, seen: list[Tensor]) -> None:
    """Note what the nodes of autograd's graph are given and return: a gradient for each tensor of a layer."""

    def add(layer: nn.Module, images: Any, y: Tensor) -> None:
        assert y.grad_fn is not None
        y.grad_fn.register_prehook(lambda gradients: tuple(3 * each for each in gradients))
        y.grad_fn.register_hook(lambda found, given: seen.extend(each for each in (*found, *given) if each is not None))
        y.grad_fn.register_hook(lambda found, _: seen.append(torch.tensor(len(found))))

    for layer in model:
        layer.register_forward_hook(add)


ADDING = (on_weights, on_accumulation, after_accumulation, optimizer_in_backward, of_modules, of_results, of_nodes)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing when gradients are computed:UserWarning")
@pytest.mark.parametrize("add", ADDING, ids=lambda add: add.__name__)
def test_hooks(add: Adding, device: str) -> None:
    """They are called in the same order, with the same bits, and what they return takes effect."""

    def begin() -> Step:
        model, seen = network(device), list[Tensor]()
        kept, step = add(model, seen), stepping(model, device)

        def noting(number: int) -> list[Tensor]:
            seen.clear()
            found = step(number)
            assert kept is None or kept
            return [*found, *seen]

        return noting

    fast, slow = trained(begin), trained(begin, fast=False)
    assert fast.same_bits(slow)
    assert (fast.long_ways, slow.long_ways) == (FAST, LONG)
