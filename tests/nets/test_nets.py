"""The torch modules against slow independent formulas."""

from __future__ import annotations

import math

import pytest
import torch as th
from torch.nn.functional import silu

from mbrl_wrappers.nets import BoundedLogVariance, EnsembleMLP, Normalizer, Routing, blocks, gaussian_nll


def make_net(members: int = 3, hidden: tuple[int, ...] = (8, 6)) -> EnsembleMLP:
    net = EnsembleMLP(members, 4, hidden, 5, generator=th.Generator().manual_seed(0))
    with th.no_grad():  # biases start at zero: give them values that a mistake would show
        for index, layer in enumerate(net.linear_layers()):
            layer.bias.normal_(generator=th.Generator().manual_seed(index))
    return net


def one_member(net: EnsembleMLP, index: int, x: th.Tensor) -> th.Tensor:
    """A plain perceptron, row-major, written out."""
    *hidden, output = net.linear_layers()
    for layer in hidden:
        x = silu(x @ layer.weight[index].T + layer.bias[index, :, 0])
    return x @ output.weight[index].T + output.bias[index, :, 0]


def test_forward_gives_each_member_its_own_rows() -> None:
    net = make_net()
    x = th.randn(3, 7, 4, generator=th.Generator().manual_seed(1))
    expected = th.stack([one_member(net, e, x[e]) for e in range(3)])
    th.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("rows", [0, 1, 2, 11, 23])
@pytest.mark.parametrize("grad", [False, True])
def test_route_sends_each_row_through_its_member(rows: int, grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 4)  # several blocks, the last one short
    net = make_net()
    generator = th.Generator().manual_seed(2)
    x = th.randn(rows, 4, generator=generator)
    member = th.randint(3, (rows,), generator=generator)
    with th.set_grad_enabled(grad):
        routing = Routing.of(member, 3)
        result = routing.restore(net.route(x, routing))
    assert result.shape == (rows, 5)
    for row in range(rows):
        th.testing.assert_close(result[row], one_member(net, int(member[row]), x[row]))


@pytest.mark.parametrize("members", [(2, 0, 1), (0, 1, 2), (2, 0), (1, 2)])
def test_members_with_equally_many_rows_are_each_itself_and_get_their_own_gradients(members: tuple[int, ...]) -> None:
    net, generator = make_net(), th.Generator().manual_seed(2)
    x = th.randn(7, 4, generator=generator, requires_grad=True)
    routing, owner = Routing.balanced(7, th.tensor(members), generator=generator)
    assert len({count for _, count in routing.segments}) == 1
    result = routing.restore(net.route(x, routing))
    expected = th.stack([one_member(net, int(owner[row]), x[row]) for row in range(7)])
    th.testing.assert_close(result, expected)
    learned = [x, *net.parameters()]
    weight = th.randn(7, 5, generator=generator)
    for ours, slow in zip(
        th.autograd.grad((result * weight).sum(), learned),
        th.autograd.grad((expected * weight).sum(), learned),
        strict=True,
    ):
        th.testing.assert_close(ours, slow)


@pytest.mark.parametrize("hidden", [(8, 6), (6,), (7, 7, 7, 5)])
def test_packed_weights_and_several_layers_give_the_same(
    hidden: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = make_net(hidden=hidden)
    generator = th.Generator().manual_seed(2)
    x = th.randn(23, 4, generator=generator)
    routing = Routing.of(th.randint(3, (23,), generator=generator), 3)
    expected = net.route(x, routing)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 4)
    monkeypatch.setattr(blocks, "PACK_ROWS", 1)
    with th.no_grad():
        th.testing.assert_close(net.route(x, routing), expected)


@pytest.mark.parametrize("rows", [0, 1, 4, 17, 300])
def test_rows_are_dealt_out_evenly_and_every_place_leads_back(rows: int) -> None:
    members = th.tensor([5, 0, 3])
    routing, member = Routing.balanced(rows, members, generator=th.Generator().manual_seed(rows))
    assert th.equal(routing.order[routing.place], th.arange(rows))
    places = [index for index, count in routing.segments for _ in range(count)]
    assert [places[place] for place in routing.place.tolist()] == member.tolist()
    assert len({count for _, count in routing.segments}) <= 1
    assert len(places) - rows in range(3)


def test_a_single_row_comes_to_each_member_with_the_same_probability() -> None:
    generator = th.Generator().manual_seed(0)
    members = th.tensor([2, 0, 1])
    drawn = th.cat([Routing.balanced(1, members, generator=generator)[1] for _ in range(3000)])
    assert th.bincount(drawn).tolist() == pytest.approx([1000] * 3, abs=120)  # four and a half standard deviations


def test_blocks_of_rows_are_routed_alike() -> None:
    routing, member = Routing.balanced(4, th.tensor([1, 0, 2]), generator=th.Generator().manual_seed(0))
    repeated = routing.repeated(3)
    assert th.equal(repeated.order[repeated.place], th.arange(12))
    places = th.tensor([index for index, count in repeated.segments for _ in range(count)])
    assert th.equal(places[repeated.place], member.repeat(3))


def test_route_passes_gradients_to_its_input() -> None:
    net = make_net().double()
    x = th.randn(6, 4, dtype=th.float64, generator=th.Generator().manual_seed(3), requires_grad=True)
    member = th.tensor([2, 0, 1, 1, 0, 2])
    assert th.autograd.gradcheck(lambda rows: net.route(rows, Routing.of(member, 3)), (x,))


def test_initial_weights_are_truncated_normal_with_the_published_spread() -> None:
    net = EnsembleMLP(5, 100, (400,), 10, generator=th.Generator().manual_seed(0))
    weight = net.linear_layers()[0].weight
    std = 1 / (2 * math.sqrt(100))
    assert weight.abs().max() <= 2 * std
    # A normal cut at two standard deviations keeps 0.8796 of its spread.
    assert float(weight.detach().std()) == pytest.approx(0.8796 * std, rel=0.01)


def test_log_variance_stays_between_its_limits_and_moves_them_when_learned() -> None:
    head = BoundedLogVariance(2, low=-4.0, high=1.0, learn_for=2)
    raw = th.tensor([[-100.0, 100.0], [-1.0, 0.0]])
    bounded = head(raw, th.arange(2))
    assert bounded[0].tolist() == pytest.approx([-4.0, 1.0], abs=1e-2)
    assert ((bounded >= -4.0) & (bounded <= 1.0 + 1e-2)).all()
    (bounded.sum() + 0.01 * head.penalty().sum()).backward()
    assert isinstance(head.low, th.nn.Parameter)
    assert head.low.grad is not None
    assert head.high.grad is not None
    assert (head.low.grad != 0).all()
    assert (head.high.grad != 0).all()
    assert head.penalty().tolist() == pytest.approx([10.0, 10.0])  # two members, two dimensions, each 5 wide


def test_the_standard_deviation_is_that_of_the_bounded_log_variance() -> None:
    head = BoundedLogVariance(3, low=-9.0, high=0.5).double()
    raw = th.linspace(-200, 200, 4001, dtype=th.float64)[:, None].expand(-1, 3)
    th.testing.assert_close(head.std(raw), th.exp(0.5 * head(raw)))
    inner = th.randn(5, 3, dtype=th.float64, generator=th.Generator().manual_seed(0), requires_grad=True)
    assert th.autograd.gradcheck(head.std, (inner,))


def test_fixed_log_variance_limits_have_no_penalty_and_no_parameters() -> None:
    head = BoundedLogVariance(3)
    assert list(head.parameters()) == []
    assert float(head.penalty()) == 0.0


def test_learned_limits_cannot_cross_however_long_the_penalty_pulls() -> None:
    head = BoundedLogVariance(2, low=-10.0, high=0.5, learn_for=3)
    optimizer = th.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        head.penalty().sum().backward()
        optimizer.step()
        head.keep_apart()
    assert head.low.detach().unique().tolist() == [-5.75]  # the middle of -10 and 0.5, less half of the least width
    assert head.high.detach().unique().tolist() == [-3.75]
    raw = th.tensor([[-20.0, 20.0]]).expand(3, 2)
    assert (head(raw, th.arange(3)).diff(dim=1) > 1.9).all()  # the head still tells quiet inputs from noisy ones
    raw = raw.clone().requires_grad_()
    head(th.full((3, 2), -4.75).requires_grad_(), th.arange(3)).sum().backward()
    assert (head.high.grad != 0).all()


def test_each_member_has_learned_limits_of_its_own() -> None:
    head = BoundedLogVariance(1, low=-10.0, high=0.5, learn_for=2)
    with th.no_grad():
        head.high[1] = -2.0
    member = th.tensor([1, 0, 1])
    raw = th.full((3, 1), 50.0)
    bounded = head(raw, member).detach().flatten().tolist()
    assert bounded == pytest.approx([-2.0, 0.5, -2.0], abs=1e-3)
    assert head.std(raw, member).detach().flatten().tolist() == pytest.approx(
        [math.exp(0.5 * value) for value in bounded], rel=1e-5
    )
    head.keep_apart()
    assert head.high.flatten().tolist() == [0.5, -2.0]  # far from the middle nothing is moved


def test_learned_limits_that_begin_too_near_are_refused() -> None:
    with pytest.raises(ValueError, match=r"begin 2\.0 apart"):
        BoundedLogVariance(3, low=-1.0, high=0.5, learn_for=2)


def test_log_variance_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="below the upper"):
        BoundedLogVariance(3, low=1.0, high=0.0)


def test_gaussian_nll_is_torchs_own_up_to_a_constant_and_a_factor() -> None:
    generator = th.Generator().manual_seed(0)
    mean, log_variance, target = (th.randn(6, 2, generator=generator) for _ in range(3))
    log_prob = th.distributions.Normal(mean, (0.5 * log_variance).exp()).log_prob(target)
    th.testing.assert_close(gaussian_nll(mean, log_variance, target), -2 * log_prob - math.log(2 * math.pi))


def test_beta_weights_the_likelihood_and_balances_the_gradient_of_the_mean() -> None:
    mean = th.zeros(3, requires_grad=True)
    log_variance, target = th.tensor([-4.0, 0.0, 2.0]), th.ones(3)
    plain = gaussian_nll(mean, log_variance, target)
    weighted = gaussian_nll(mean, log_variance, target, beta=0.5)
    th.testing.assert_close(weighted, plain * th.exp(0.5 * log_variance))
    (gradient,) = th.autograd.grad(gaussian_nll(mean, log_variance, target, beta=1.0).sum(), mean)
    th.testing.assert_close(gradient, th.full((3,), -2.0))  # least squares: no dimension counts more


def test_normalizer_takes_population_statistics_and_keeps_constant_dimensions_constant() -> None:
    normalizer = Normalizer(3)
    normalizer.set_statistics(th.tensor([[1.0, 5.0, 1e6], [3.0, 5.0, 1e6 + 0.06]]))
    assert normalizer.mean.tolist() == pytest.approx([2.0, 5.0, 1e6])
    assert normalizer.std.tolist() == [1.0, 0.0, 0.0]  # the spread of 1; a constant; float32 noise on a large number
    x = th.tensor([[0.0, 7.0, 2e6]])
    assert normalizer.normalize(x).tolist() == [[-2.0, 0.0, 0.0]]
    assert normalizer.denormalize(th.tensor([[-2.0, 9.0, -3.0]]))[0, :2].tolist() == [0.0, 5.0]


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1.0, 1e9])
def test_statistics_do_not_depend_on_the_unit(unit: float) -> None:
    normalizer = Normalizer(2)
    normalizer.set_statistics(unit * th.tensor([[1.0, 0.1], [3.0, 0.1]]))
    assert (normalizer.std / unit).tolist() == pytest.approx([1.0, 0.0])
    th.testing.assert_close(normalizer.normalize(unit * th.tensor([[0.0, 7.0]])), th.tensor([[-2.0, 0.0]]))


def test_layer_norm_is_torchs_on_both_ways_in() -> None:
    net = EnsembleMLP(2, 3, (5, 4), 2, layer_norm=True, generator=th.Generator().manual_seed(0))
    with th.no_grad():
        for index, layer in enumerate(net.linear_layers()):
            layer.bias.normal_(generator=th.Generator().manual_seed(index))
    x = th.randn(1500, 3, generator=th.Generator().manual_seed(1)) * 3
    for member in range(2):
        expected = x
        *hidden, last = net.linear_layers()
        for layer in hidden:
            expected = expected @ layer.weight[member].t() + layer.bias[member, :, 0]
            expected = th.nn.functional.silu(th.nn.functional.layer_norm(expected, expected.shape[1:]))
        expected = expected @ last.weight[member].t() + last.bias[member, :, 0]
        th.testing.assert_close(net(x.expand(2, *x.shape))[member], expected, atol=1e-5, rtol=1e-4)
        routing = Routing.of(th.full((len(x),), member), 2)
        th.testing.assert_close(routing.restore(net.route(x, routing)), expected, atol=1e-5, rtol=1e-4)
        with th.no_grad():  # in blocks, with packed biases from 1,000 rows on
            th.testing.assert_close(routing.restore(net.route(x, routing)), expected, atol=1e-5, rtol=1e-4)
            th.testing.assert_close(
                net.route(x[:7], Routing.of(th.full((7,), member), 2)), expected[:7], atol=1e-5, rtol=1e-4
            )
