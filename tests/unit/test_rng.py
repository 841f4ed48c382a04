"""Streams are names, not positions."""

import numpy as np
import torch

from bench import rng


def test_key_is_frozen_across_versions() -> None:
    assert rng.key("order", 3) == 3991168457593900187


def test_keys_keep_type_and_boundaries() -> None:
    names = [("a", "b"), ("ab",), (1,), ("1",), ("a", 1), ("a1",)]
    assert len({rng.key(*name) for name in names}) == len(names)


def test_a_stream_does_not_notice_another() -> None:
    alone, beside = rng.Streams("run", 0), rng.Streams("run", 0)
    beside("policy")
    torch.rand(7, generator=beside("policy"))
    assert torch.equal(
        torch.rand(5, generator=alone("order")), torch.rand(5, generator=beside("order"))
    )


def test_a_stream_continues() -> None:
    streams = rng.Streams("x")
    both = torch.cat([torch.rand(3, generator=streams("a")) for _ in range(2)])
    assert torch.equal(both, torch.rand(6, generator=rng.generator("x", "a")))


def test_state_goes_back_in_place_and_forgets_later_streams() -> None:
    streams = rng.Streams("x")
    held = streams("a")
    torch.rand(3, generator=held)
    state = streams.state_dict()
    expected = torch.rand(4, generator=held)
    torch.rand(2, generator=streams("late"))
    streams.load_state_dict(state)
    assert torch.equal(torch.rand(4, generator=held), expected)
    fresh = torch.rand(2, generator=rng.generator("x", "late"))
    assert torch.equal(torch.rand(2, generator=streams("late")), fresh)


def test_forked_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    with rng.forked("init", 0):
        first = torch.rand(3)
    with rng.forked("init", 0):
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(before, torch.get_rng_state())


def test_numpy_generator_is_named_too() -> None:
    draws = [rng.numpy_generator("split", seed).integers(1 << 30, size=4) for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
