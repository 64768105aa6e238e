"""What the benchmark of agents counts."""

from __future__ import annotations

import torch as th

from scripts.benchmarks.agents import CountedProducts, share_in_products


def test_the_products_of_both_passes_are_counted_also_without_gradients() -> None:
    net, rows = th.nn.Linear(3, 4), th.ones(5, 3, requires_grad=True)
    with CountedProducts() as forward, th.no_grad():
        net(rows)
    assert forward.flops == 2 * 5 * 3 * 4
    with CountedProducts() as both:
        net(rows).sum().backward()
    assert both.flops == 3 * forward.flops


def test_the_share_of_products_is_that_of_the_operators_time() -> None:
    matrix = th.ones(256, 256)
    assert share_in_products(lambda: matrix @ matrix) > 0.5
    assert share_in_products(lambda: matrix.exp()) == 0
