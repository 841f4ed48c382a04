"""Snapshots: independent copies, put back exactly, for every kind of state that a step changes."""

import torch
from torch import nn

from bench.networks import build
from bench.rng import Streams, forked
from bench.train.state import Stateful, restore, snapshot


def test_a_tensor_is_copied_and_put_back_in_place() -> None:
    tensor = torch.tensor([1.0, 2.0])
    state = snapshot(tensor)
    tensor += 5
    assert state.tolist() == [1.0, 2.0]
    place = tensor.data_ptr()
    restore(tensor, state)
    assert tensor.tolist() == [1.0, 2.0]
    assert tensor.data_ptr() == place
    tensor += 1
    assert state.tolist() == [1.0, 2.0], "a snapshot serves more than once"


def test_a_leaf_keeps_its_graph_role_and_loses_its_gradient() -> None:
    policy = torch.zeros(3, requires_grad=True)
    state = snapshot(policy)
    assert not state.requires_grad
    policy.exp().sum().backward()
    restore(policy, state)
    assert policy.grad is None
    assert policy.requires_grad
    assert policy.is_leaf
    policy.sum().backward()
    assert policy.grad is not None


def test_a_network_s_weights_and_buffers_come_back() -> None:
    with forked("state"):
        network = build("small-cnn", 10, 1, 8)
    state = snapshot(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.ones(4, 1, 8, 8)).sum().backward()  # moves the running statistics
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 0.1 * torch.ones_like(parameter)
    changed = [n for n, v in network.state_dict().items() if not torch.equal(v, before[n])]
    assert {"conv1.weight", "norm1.running_mean", "norm1.num_batches_tracked"} <= set(changed)
    restore(network, state)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_rehearsed_optimiser_step_leaves_no_trace() -> None:
    def trained(rehearse: bool) -> torch.Tensor:
        weight = nn.Parameter(torch.arange(4.0))
        optimiser = torch.optim.SGD([weight], lr=0.1, momentum=0.9)

        def step() -> None:
            optimiser.zero_grad()
            (weight**2).sum().backward()
            optimiser.step()

        step()
        if rehearse:
            states = snapshot(weight), snapshot(optimiser)
            optimiser.param_groups[0]["lr"] = 9.0
            step()
            restore(weight, states[0])
            restore(optimiser, states[1])
        step()
        return weight.detach()

    assert torch.equal(trained(True), trained(False))


def test_streams_come_back_those_begun_later_too() -> None:
    streams = Streams("test")
    streams("a").manual_seed(1)
    state = snapshot(streams)
    first = torch.rand(3, generator=streams("a")), torch.rand(3, generator=streams("b"))
    restore(streams, state)
    again = torch.rand(3, generator=streams("a")), torch.rand(3, generator=streams("b"))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_what_can_be_kept() -> None:
    assert isinstance(nn.Linear(1, 1), Stateful)
    assert isinstance(Streams("test"), Stateful)
    assert not isinstance([], Stateful)


def test_a_snapshot_survives_the_steps_after_its_restoration() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.SGD([weight], lr=0.1, momentum=0.9)

    def step() -> None:
        optimiser.zero_grad()
        weight.square().sum().backward()
        optimiser.step()

    step()
    state = snapshot(optimiser)
    before = state["state"][0]["momentum_buffer"].clone()
    restore(optimiser, state)
    step()
    assert torch.equal(state["state"][0]["momentum_buffer"], before)
