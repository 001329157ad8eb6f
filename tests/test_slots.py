"""What must hold for leases whatever trials do: nothing is promised twice, nothing is lost, trials spread."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mlops_nb.dimensions import Resources
from mlops_nb.slots import CONTEXT, Device, Lease, Slots, find_devices, visible

GIB = 1 << 30
PARTS = st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.3, 1 / 3, 0.5, 0.7, 1.0, 2.0, 3.0])
CPUS = st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0])
ENDINGS = st.sampled_from(["finished", "finished", "failed", "out-of-memory"])


class Trials(RuleBasedStateMachine):
    """Trials come, want to be alone, end and die, in any order"""

    @initialize(
        gpus=PARTS, cpus=CPUS, sizes=st.lists(st.integers(1, 80), max_size=5), there=st.floats(1, 16, allow_nan=False)
    )
    def begin(self, gpus: float, cpus: float, sizes: list[int], there: float) -> None:
        self.resources, self.there = Resources(gpus, cpus), there
        self.devices = [Device(number, "fake GPU", size * GIB) for number, size in enumerate(sizes)]
        self.slots = Slots(self.resources, self.devices, there)
        self.running: list[Lease] = []
        self.peak = 0
        self.aside: set[int] = set()

    def users(self) -> Counter[int]:
        return Counter(gpu for lease in self.running for gpu in lease.gpus)

    @rule(alone=st.booleans())
    def ask(self, alone: bool) -> None:
        before = self.users()
        lease = self.slots.lease(alone)
        if lease is None:
            return
        closed = {gpu for other in self.running if other.alone for gpu in other.gpus}
        assert closed.isdisjoint(lease.gpus), "somebody is alone there"
        assert self.aside.isdisjoint(lease.gpus)
        assert len(set(lease.gpus)) == int(self.resources.gpus) or len(lease.gpus) == 1
        if alone or self.resources.gpus >= 1:
            assert not any(before[gpu] for gpu in lease.gpus)
        if self.resources.gpus == 0:
            assert not (alone and self.running)
            assert not any(other.alone for other in self.running)
        kept = {self.slots.kept.number} if self.slots.kept else set()
        others = {device.number for device in self.devices} - closed - self.aside - kept
        if 0 < self.resources.gpus < 1 and any(
            before[gpu] < min(before[mine] for mine in lease.gpus) for gpu in others
        ):
            pytest.fail("a trial was packed where it could have spread")
        if self.resources.gpus:
            assert lease.environment()["CUDA_VISIBLE_DEVICES"] == ",".join(map(str, lease.gpus))
        elif self.devices:
            assert lease.environment()["CUDA_VISIBLE_DEVICES"] == ""
        self.running.append(lease)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 50), ended=ENDINGS, needed=st.integers(0, 40 * GIB))
    def end(self, which: int, ended: str, needed: int) -> None:
        lease = self.running.pop(which % len(self.running))
        self.slots.release(lease, ended, needed)  # type: ignore[arg-type]
        if ended == "finished":
            self.peak = max(self.peak, needed)
            assert not self.slots.health.aside or self.aside, "a trial that finished sets nothing aside"

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 50))
    def die(self, which: int) -> None:
        lease = self.running.pop(which % len(self.running))
        for said in self.slots.release(lease, "died"):
            assert "is set aside" in said
            if said.startswith("GPU"):
                self.aside.add(int(said.split()[1]))

    @rule()
    def give_up(self) -> None:
        self.slots.stop_waiting()

    @invariant()
    def nothing_is_promised_twice(self) -> None:
        if not hasattr(self, "slots"):
            return
        assert sum(lease.cpus for lease in self.running) <= self.there + 1e-6
        users = self.users()
        for device in self.devices:
            assert users[device.number] * min(self.resources.gpus, 1) <= 1 + 1e-6
        assert self.slots.places >= 0

    @invariant()
    def what_is_free_can_be_had(self) -> None:
        """As many as the places say fit on an empty machine, and the memory of each GPU is enough for them"""
        if not hasattr(self, "slots") or self.running:
            return
        self.slots.stop_waiting()
        leases = []
        while (lease := self.slots.lease()) is not None:
            leases.append(lease)
        assert len(leases) == self.slots.places
        users = Counter(gpu for lease in leases for gpu in lease.gpus)
        for device in self.devices:
            count = users[device.number]
            assert count <= 1 or count * (self.peak + CONTEXT) <= device.memory or not self.peak
        for lease in leases:
            self.slots.release(lease, "failed")


Trials.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None, derandomize=True)
TestTrials = Trials.TestCase


@given(count=st.integers(1, 6), share=st.integers(2, 4))
def test_a_trial_that_waits_to_be_alone_gets_its_turn(count: int, share: int) -> None:
    """However many others ask, and in whatever order they end"""
    slots = Slots(Resources(gpus=1 / share, cpus=0.1), find_devices(fake=count), 100)
    running = [lease for _ in range(count * share) if (lease := slots.lease())]
    assert len(running) == count * share
    for _ in range(count * share):
        if alone := slots.lease(alone=True):
            break
        slots.release(running.pop(0), "finished")
        while lease := slots.lease():
            running.append(lease)
    else:
        alone = slots.lease(alone=True)
    assert alone
    assert not {*alone.gpus} & {gpu for lease in running for gpu in lease.gpus}


def test_a_lease_is_given_back_once() -> None:
    slots = Slots(Resources(), [], 1)
    lease = slots.lease()
    assert lease
    slots.release(lease, "finished")
    with pytest.raises(KeyError):
        slots.release(lease, "finished")


@given(names=st.lists(st.sampled_from(["0", "1", "2", "9", "-1", "GPU-a", "GPU-ab", "GPU-c", "MIG-d", "", "x"])))
def test_only_what_cuda_would_see(names: list[str]) -> None:
    """Names count up to the first that means nothing, as in CUDA; the beginning of an identity is enough"""
    devices = [
        Device(number, "fake GPU", GIB, f"GPU-{letters}") for number, letters in enumerate(["abc", "ade", "cfg"])
    ]
    known = {"0": 0, "1": 1, "2": 2, "GPU-ab": 0, "GPU-c": 2}
    expected: list[int] = []
    for name in names:
        if name not in known or known[name] in expected:
            break
        expected.append(known[name])
    assert [device.number for device in visible(devices, ",".join(names))] == expected
