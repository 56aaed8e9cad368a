"""What is changed after a fault, and undone if it did not help, while other calls need the same change or plans."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.support.kept import FakeCompiled, find, keep, row_call
from tests.support.plans import planned
from tritonconv.fallback_warning import FallbackWarning
from tritonconv.launch import bounded_cache, failures, plan_cache, recovery, remedies
from tritonconv.launch.failures import NoKernel, NoTma, TileTooLarge
from tritonconv.launch.plan import Plan
from tritonconv.launch.recovery import Recovery
from tritonconv.launch.remedies import Remedy
from tritonconv.runtime import gpu_of
from tritonconv.tiling.catalogue import smallest_tile
from tritonconv.tiling.tile import Tile

knobs = pytest.importorskip("triton").knobs

pytestmark = pytest.mark.oldest

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOO_LARGE = RuntimeError("too large")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Assert after each test that no call tries a change any more."""
    yield
    assert not remedies._trials


@pytest.fixture(params=["knob", "variable", "neither", "both"])
def setting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str | None, str | None]:
    """How the user has chosen the folder of Triton's cache: that folder, the knob's own value, and the variable's."""
    knob = "/knob" if request.param in ("knob", "both") else None
    variable = "/variable" if request.param in ("variable", "both") else None
    monkeypatch.setenv(remedies.CACHE, "")  # so that it is set back after the test
    monkeypatch.delenv(remedies.CACHE)
    monkeypatch.setitem(vars(knobs.cache), "dir", knob)
    if knob is None:
        del knobs.cache.dir
    if variable is not None:
        monkeypatch.setenv(remedies.CACHE, variable)
    return knobs.cache.dir, knob, variable


def state() -> tuple[str, str | None, str | None]:
    return knobs.cache.dir, vars(knobs.cache).get("dir"), os.environ.get(remedies.CACHE)


def damaged() -> Remedy:
    """Return the remedy of a call whose cache has failed."""
    remedy = remedies.replace_cache(ValueError("damaged"))
    assert remedy is not None
    return remedy


def test_the_cache_is_set_back_to_what_the_user_chose(setting: tuple[str, str | None, str | None]) -> None:
    """The knob is not set if it was not set before, and the variable, which other processes inherit, neither."""
    remedy = damaged()
    assert knobs.cache.dir == os.environ[remedies.CACHE] == remedies.private_folder()
    assert remedy.reason.startswith(f"Triton's cache in {setting[0]} failed, ")
    remedy.give_up()
    assert state() == setting


def test_the_cache_is_set_back_when_no_call_needs_the_temporary_one(
    setting: tuple[str, str | None, str | None],
) -> None:
    """Two calls fail by the same cache. Neither the first nor the last to give up leaves the other without a cache."""
    first, second = damaged(), damaged()
    assert second.reason.startswith(f"Triton's cache in {setting[0]} failed, ")
    first.give_up()
    assert knobs.cache.dir == remedies.private_folder()
    second.give_up()
    assert state() == setting


@pytest.mark.parametrize("succeeds_first", [False, True])
def test_a_cache_that_has_helped_one_call_stays(
    succeeds_first: bool, setting: tuple[str, str | None, str | None]
) -> None:
    one, other = damaged(), damaged()
    for end in (one.succeed, other.give_up) if succeeds_first else (other.give_up, one.succeed):
        end()
    later = damaged()  # its cache had been replaced before
    assert later.reason == one.reason
    later.give_up()
    assert knobs.cache.dir == remedies.private_folder() != setting[0]


def no_tma() -> NoTma:
    return NoTma("fprop", gpu_of(torch.device(DEVICE)))


@pytest.mark.parametrize("end", ["give_up", "succeed"])
def test_a_failure_that_two_calls_avoid(end: str) -> None:
    """The first gives up while the second still tries without TMA. The failure then ends as the second does."""
    first, second = (remedies.avoid(no_tma(), "no TMA") for _ in range(2))
    first.give_up()
    assert failures.happened(no_tma())
    getattr(second, end)()
    assert failures.happened(no_tma()) == (end == "succeed")


def test_what_has_helped_one_call_is_not_forgotten_for_another() -> None:
    first, second = (remedies.avoid(no_tma(), "no TMA") for _ in range(2))
    second.succeed()
    first.give_up()
    remedies.avoid(no_tma(), "no TMA").give_up()
    assert failures.happened(no_tma())


def test_a_remedy_says_nothing_about_a_later_one() -> None:
    """It was kept, and forgotten by hand. Another call makes the change again, which the first can not undo."""
    first, second = (remedies.avoid(no_tma(), "no TMA") for _ in range(2))
    second.succeed()
    failures.remove(no_tma())
    third = remedies.avoid(no_tma(), "no TMA")
    first.give_up()
    assert failures.happened(no_tma())
    first.succeed()
    third.give_up()
    assert not failures.happened(no_tma())


def test_plans_that_were_chosen_meanwhile_are_not_kept() -> None:
    """While one call tries a remedy, others plan with it. Once it is undone, their plans are not used again.

    One of them was kept, and one is still running.
    """
    remedy = remedies.avoid(no_tma(), "no TMA")
    kept, running = row_call(4, DEVICE), row_call(5, DEVICE)
    keep(kept)
    assert find(kept) is not None
    generation, plan = bounded_cache.generation(), planned(running)
    remedy.give_up()
    assert find(kept) is None
    plan_cache.keep(running, plan, [FakeCompiled()], generation)
    assert not plan_cache.plans.entries


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `Recovery` handle errors as on a GPU. Each error is a tile that is too large."""
    monkeypatch.setattr(recovery.runtime, "interpreted", lambda: False)
    monkeypatch.setattr(recovery, "forget_unfinished", lambda plan: None)
    monkeypatch.setattr(recovery, "fault_of", lambda error: "size")


def chosen(tile: Tile, plan: Plan) -> Plan:
    return plan._replace(tile=tile)


@pytest.mark.usefixtures("faults")
def test_a_call_that_gives_up_takes_no_remedy_from_another() -> None:
    """Both found the same tile too large. One gives up, so that the other decides again as it must: without the tile.

    If the tile was tried again, the other would give up as well, and the reference would run the operator from then on.
    """
    plan = planned(row_call(4, DEVICE))
    smallest = smallest_tile("fprop", 4, "")
    large = replace(smallest, BLOCK_N=2 * smallest.BLOCK_N)
    with Recovery(row_call(4, DEVICE)) as other:
        with Recovery(row_call(4, DEVICE)) as one:
            assert one.handle(TOO_LARGE, chosen(large, plan))
            assert other.handle(TOO_LARGE, chosen(large, plan))
            assert one.handle(TOO_LARGE, chosen(smallest, plan))
        assert (one.gave_up, other.gave_up) == (True, False)
        assert failures.happened(TileTooLarge("fprop", plan.request.gpu, large))
        with pytest.warns(FallbackWarning, match="does not fit this GPU"):
            other.succeed()
    assert failures.happened(TileTooLarge("fprop", plan.request.gpu, large))


@pytest.mark.usefixtures("faults")
def test_each_remedy_is_tried_once() -> None:
    """Another thread may change which tile is picked. That one can be too large, too, before the smallest is tried.

    If a tile that was avoided fails again, the call gives up, and its remedies are undone.
    """
    plan = planned(row_call(4, DEVICE))
    smallest = smallest_tile("fprop", 4, "")
    tiles = [replace(smallest, BLOCK_N=factor * smallest.BLOCK_N) for factor in (2, 4)]
    with Recovery(row_call(4, DEVICE)) as tried:
        for tile in tiles:
            assert tried.handle(TOO_LARGE, chosen(tile, plan))
        assert not tried.gave_up
        assert tried.handle(TOO_LARGE, chosen(tiles[0], plan))
        assert tried.gave_up
        assert failures.happened(NoKernel.of(row_call(4, DEVICE)))
    assert not any(failures.happened(TileTooLarge("fprop", plan.request.gpu, tile)) for tile in tiles)
