"""The learned methods on a CUDA device: the CPU's bill, finite results, rewards that agree."""

from pathlib import Path

import pytest
import torch

from bench.check import DISTORT, RECIPE, small_config
from bench.data.sources import load
from bench.plugins import discover, select
from bench.rng import generator
from bench.stage import Outcome, run_method, stage
from bench.train.prepare import Prepared, prepare
from bench.train.trajectories import trajectories
from methods._alignment import ESTIMATORS
from methods.autodo import Phases
from methods.fds import Search
from methods.hba import Search as HyperSearch

pytestmark = pytest.mark.gpu
PLUGINS = discover([Path(__file__).parents[2] / "methods"])
# Steps differ between `difference` on a CPU (one more pass) and in half precision (two).
SPECS = ["gar[estimator=hooks]", "gar[estimator=jvp]", "gar[reward=nslr]"]
SPECS += ["ohl[copies=4,stacked=false]", "ohl[copies=4,stacked=true]"]
SPECS += ["autodo", "autodo[variant=sha,view=upsampled]", "autodo[variant=static,terms=0]"]
SPECS += ["fds[outer=1,rate=0.2,rates=2]", "fds[learns=augmentation,outer=1,warps=1]"]
SPECS += ["hba", "hba[layers=conv+bn,mode=replay]", "stn"]
SECONDS = ["gar", "ohl[copies=4]", "autodo", "fds[outer=2,rates=2]", "hba", "stn"]


def prepared_on(device: str) -> Prepared:
    return prepare(
        load("digits"),
        distort=DISTORT,
        network="small-cnn",
        recipe=RECIPE,
        seed=0,
        device=torch.device(device),
    )


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepared_on("cuda")


def outcome(prepared: Prepared, spec: str, **changes: object) -> Outcome:
    selected = select(PLUGINS, spec)
    device = prepared.task.device.type
    config = small_config(selected, 4.0).model_copy(update={"device": device, **changes})
    return run_method(selected.make(), prepared, config)


@pytest.mark.parametrize("spec", SPECS)
def test_the_portable_bill_is_the_cpus(prepared: Prepared, spec: str) -> None:
    here, there = outcome(prepared_on("cpu"), spec), outcome(prepared, spec)
    assert there.meter.ledger.flops("run") == here.meter.ledger.flops("run")
    assert there.session.plans == here.session.plans
    assert there.test.finite
    assert there.test.error < 0.75


@pytest.mark.parametrize("spec", SECONDS)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_seconds_track_fills_its_budget(prepared: Prepared, spec: str, compiled: bool) -> None:
    if compiled and spec.startswith("ohl"):
        pytest.skip("stacked copies run uncompiled")
    ledger = outcome(prepared, spec, track="gpu", compile=compiled).meter.ledger
    assert 0.4 < ledger.spent / ledger.budget < 1.05


@pytest.mark.parametrize("estimator", ["hooks", "difference"])
def test_rewards_in_half_precision_follow_forward_mode_in_single(
    prepared: Prepared, estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(select(PLUGINS, "gar")).model_copy(update={"device": "cuda"})
    session = stage(prepared, config).session
    learner, batch = session.learner(), next(session.batches("train"))
    learner.network.eval()  # without batch statistics all estimate the same
    found = []
    for name, half in (("jvp", False), (estimator, True)):
        monkeypatch.setattr(
            learner, "precision", lambda half=half: torch.autocast("cuda", torch.bfloat16, half)
        )
        judge = ESTIMATORS[name](learner, norms=True)
        with session.metered("probe", half=int(half)):
            judge.watch(batch)
            found.append(judge.rewards().float())
        learner.network.zero_grad()
    assert torch.corrcoef(torch.stack(found))[0, 1] > 0.97


def test_stacked_copies_take_the_sequential_steps(prepared: Prepared) -> None:
    config = small_config(select(PLUGINS, "ohl")).model_copy(update={"device": "cuda"})
    rng = generator("images")
    shape = (4, 32, *prepared.task.train.images.shape[1:])
    images = torch.randint(256, shape, dtype=torch.uint8, generator=rng).cuda()
    # Copies that saw each other's images would show in the losses.
    images = images // torch.tensor([1, 2, 8, 64], dtype=torch.uint8).cuda().view(4, 1, 1, 1, 1)
    targets = torch.randint(10, (32,), generator=rng).cuda()
    losses = []
    for stacked in (False, True):
        session = stage(prepared, config).session
        copies = trajectories(session, session.learner(), 4, stacked)
        losses.append(torch.stack([copies.step(images, targets, 0.2) for _ in range(5)]))
    torch.testing.assert_close(losses[0], losses[1], rtol=0.05, atol=0.05)  # bfloat16


def test_autodos_steps_never_wait_for_the_device(prepared: Prepared) -> None:
    selected = select(PLUGINS, "autodo")
    config = small_config(selected).model_copy(update={"device": "cuda"})
    session, method = stage(prepared, config).session, selected.make()
    phases = Phases(method, session, method.learner(session), method.tables(session.task))
    for _ in range(2):  # the first calls choose algorithms and count FLOPs
        phases.step(0.0)
        phases.hyper(1.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        phases.step(0.0)
        phases.hyper(1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("learns", ["optimiser", "joint"])
def test_fds_steps_never_wait_for_the_device(prepared: Prepared, learns: str) -> None:
    """But for the loss of each outer step, on which the schedule depends."""
    selected = select(PLUGINS, f"fds[learns={learns},rates=2,warps=1]")
    config = small_config(selected).model_copy(update={"device": "cuda"})
    search = Search(stage(prepared, config).session, selected.config)
    for number in range(5):
        if number == 3:  # the first steps choose algorithms, and count FLOPs of 0 and N columns
            torch.cuda.set_sync_debug_mode("error")
        try:
            search.inner(0.0)
            search.train(0.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_fds_hypergradients_are_the_cpus(prepared: Prepared) -> None:
    found = []
    for place in (prepared_on("cpu"), prepared):
        selected = select(PLUGINS, "fds[outer=1,rate=0.1,momentum=0.5,rates=2]")
        device = place.task.device.type
        config = small_config(selected).model_copy(update={"device": device})
        search = Search(stage(place, config).session, selected.config)
        caught: list[torch.Tensor] = []
        search.schedule.move = caught.append  # type: ignore[method-assign]
        search.trial(10)
        found.append(caught[0].cpu())
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=1e-4)


def hyper_search(place: Prepared, spec: str) -> HyperSearch:
    """A search of HBA before its first step."""
    selected = select(PLUGINS, spec)
    config = small_config(selected).model_copy(update={"device": place.task.device.type})
    session, method = stage(place, config).session, selected.make()
    population = method.population(place.task)
    return HyperSearch(session, method.learner(session), population, selected.config)


def test_hbas_weight_steps_never_wait_for_the_device(prepared: Prepared) -> None:
    """Those of λ do: draws are made on the host, and need it."""
    search = hyper_search(prepared, "hba")
    for number in range(4):
        if number == 3:  # the first steps choose algorithms and count FLOPs
            torch.cuda.set_sync_debug_mode("error")
        try:
            search.step(0.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("layers", ["first-bn", "conv+bn"])
def test_hbas_hypergradients_are_the_cpus(prepared: Prepared, layers: str) -> None:
    found = []
    for place in (prepared_on("cpu"), prepared):
        search = hyper_search(place, f"hba[layers={layers}]")
        caught: list[torch.Tensor] = []
        search.move = caught.append  # type: ignore[method-assign]
        for _ in range(10):
            search.step(0.0)
        search.hyper()
        found.append(caught[0])
    assert torch.corrcoef(torch.stack(found))[0, 1] > 0.95  # bfloat16


def test_the_hypergradient_in_half_precision_follows_that_in_single(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for half in (False, True):
        selected = select(PLUGINS, "autodo")
        config = small_config(selected).model_copy(update={"device": "cuda"})
        session, method = stage(prepared, config).session, selected.make()
        learner = method.learner(session)
        monkeypatch.setattr(
            learner, "precision", lambda half=half: torch.autocast("cuda", torch.bfloat16, half)
        )
        phases = Phases(method, session, learner, method.tables(session.task))
        caught: list[torch.Tensor] = []
        monkeypatch.setattr(
            phases.optimiser, "step", lambda row, grads, rate, c=caught: c.extend(grads)
        )
        phases.hyper(1.0)
        found.append(torch.cat([each.flatten() for each in caught[2:]]))  # weights and labels
    assert torch.corrcoef(torch.stack(found))[0, 1] > 0.97
