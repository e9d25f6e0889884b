"""The scheduler loses nobody, leaks nothing, and lets nobody overtake."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.llm.blocks import BLOCK, Ledger
from mesh.llm.scheduler import Cancel, Emit, Ended, GiveBack, Scheduler, Submit
from mesh.llm.sequence import Reason, Sequence
from mesh.llm.step import Row
from mesh.machine import TICK

END = 0


def sequence(id_, prompt=3, tokens_max=4, **wishes):
    return Sequence(id=id_, prompt=tuple(range(1, prompt + 1)), tokens_max=tokens_max, **wishes)


def scheduler(slots=4, budget=100, cap=512, **settings):
    return Scheduler(Ledger(slots, cap, budget), **settings)


def submit(machine, *sequences):
    return [action for each in sequences for action in machine.handle(Submit(each), 0.0)]


def play(machine, token=9, steps_max=200):
    """Make steps until nobody is due; return them and what was told."""
    steps, told = [], []
    while (step := machine.next_step()) is not None:
        asking = [row.id for row in step.rows if row.is_last]
        if step.chunk and step.chunk.is_last:
            asking.append(step.chunk.id)
        told += machine.settle(step, dict.fromkeys(asking, token))
        machine.check()
        steps.append(step)
        assert len(steps) < steps_max
    return steps, told


def test_a_prompt_is_read_in_chunks_then_tokens_come_one_by_one():
    machine = scheduler(chunk=4)
    submit(machine, sequence(1, prompt=10, tokens_max=3))
    steps, told = play(machine)
    chunks = [(step.chunk.start, len(step.chunk.tokens), step.chunk.is_last) for step in steps[:3]]
    assert chunks == [(0, 4, False), (4, 4, False), (8, 2, True)]
    assert [step.rows for step in steps[3:]] == [(Row(1, 0, 10, 9),), (Row(1, 0, 11, 9),)]
    assert told == [Emit(1, 9)] * 3 + [Ended(1, Reason.LENGTH)]


def test_who_speaks_goes_on_while_others_are_read():
    machine = scheduler(chunk=4)
    submit(machine, sequence(1, prompt=4, tokens_max=9))
    first = machine.next_step()
    machine.settle(first, {1: 9})
    submit(machine, sequence(2, prompt=8))
    step = machine.next_step()
    assert step.chunk.id == 2
    assert [row.id for row in step.rows] == [1]


def test_an_end_token_ends_but_not_before_the_least():
    machine = scheduler()
    submit(machine, sequence(1, ends=frozenset({END})))
    _, told = play(machine, token=END)
    assert told == [Emit(1, END), Ended(1, Reason.STOP)]
    submit(machine, sequence(2, ends=frozenset({END}), tokens_min=2))
    _, told = play(machine, token=END)
    assert told == [Emit(2, END)] * 3 + [Ended(2, Reason.STOP)]


def test_what_can_never_fit_and_what_finds_the_queue_full_is_refused():
    machine = scheduler(slots=1, budget=2, cap=256, queue_max=1)
    too_large = sequence(1, prompt=BLOCK, tokens_max=BLOCK + 1)
    assert submit(machine, too_large) == [Ended(1, Reason.TOO_LARGE)]
    assert submit(machine, sequence(2), sequence(3)) == [Ended(3, Reason.OVERLOADED)]


def test_a_cancelled_answer_frees_its_slot_before_the_next_step():
    machine = scheduler(slots=1)
    submit(machine, sequence(1, tokens_max=99), sequence(2))
    machine.settle(machine.next_step(), {1: 9})
    assert machine.handle(Cancel(1), 0.0) == [Ended(1, Reason.CANCELLED)]
    assert machine.next_step().chunk.id == 2
    assert machine.handle(Cancel(1), 0.0) == []


def test_an_answer_in_a_step_ends_when_the_step_does():
    machine = scheduler()
    submit(machine, sequence(1, tokens_max=99))
    step = machine.next_step()
    assert machine.handle(Cancel(1), 0.0) == []
    assert machine.settle(step, {1: 9}) == [Ended(1, Reason.CANCELLED)]
    machine.check()


def test_deadlines_wake_and_end():
    machine = scheduler(slots=1)
    submit(machine, sequence(1, deadline_s=5.0), sequence(2, deadline_s=3.0))
    assert machine.wakeup_s() == 3.0
    assert machine.handle(TICK, 2.9) == []
    assert machine.handle(TICK, 3.0) == [Ended(2, Reason.DEADLINE)]
    assert machine.wakeup_s() == 5.0


def test_first_come_first_served_within_a_priority():
    machine = scheduler(slots=1)
    submit(machine, sequence(1, tokens_max=1), sequence(2, tokens_max=1))
    submit(machine, sequence(3, tokens_max=1, priority=0))
    _, told = play(machine)
    assert [each.id for each in told if isinstance(each, Ended)] == [3, 1, 2]


def test_the_newest_gives_way_and_says_again_what_it_had_said():
    machine = scheduler(slots=2, budget=4, cap=256, rows_max=8)
    old = sequence(1, prompt=60, tokens_max=150)
    new = sequence(2, prompt=60, tokens_max=100)
    submit(machine, old, new)
    steps, told = play(machine, steps_max=400)
    assert machine.statistics()["preemptions"] >= 1
    assert [each.id for each in told if isinstance(each, Ended)] == [1, 2]
    for id_, count in ((1, 150), (2, 100)):
        assert sum(each == Emit(id_, 9) for each in told) == count, "no token lost, none twice"
    said_again = [row for step in steps for row in step.rows if not row.is_last]
    assert {row.id for row in said_again} == {2}


class Any(RuleBasedStateMachine):
    """Joining, leaving, cancelling and failing in any order keeps every invariant."""

    def __init__(self):
        super().__init__()
        self.machine = scheduler(slots=3, budget=6, cap=256, chunk=16, queue_max=5, rows_max=4)
        self.count = 0
        self.open = {}
        self.step = None
        self.now_s = 0.0

    def note(self, actions):
        for action in actions:
            match action:
                case Emit(id_, _):
                    assert id_ in self.open, "a token of an answer that is over"
                    self.open[id_] += 1
                case Ended(id_, _):
                    del self.open[id_]
                case GiveBack(slot):
                    assert 0 <= slot < 3

    @rule(prompt=st.integers(1, 260), tokens=st.integers(1, 80), left_s=st.integers(1, 30))
    def submit(self, prompt, tokens, left_s):
        self.count += 1
        self.open[self.count] = 0
        each = sequence(
            self.count,
            prompt=prompt,
            tokens_max=tokens,
            deadline_s=self.now_s + left_s,
            priority=prompt % 3,
            ends=frozenset({END}),
        )
        self.note(self.machine.handle(Submit(each), self.now_s))

    @rule(pick=st.integers(0, 30))
    def cancel(self, pick):
        if self.open:
            ids = sorted(self.open)
            self.note(self.machine.handle(Cancel(ids[pick % len(ids)]), self.now_s))

    @rule(seconds=st.integers(0, 5))
    def wait(self, seconds):
        self.now_s += seconds
        self.note(self.machine.handle(TICK, self.now_s))

    @precondition(lambda self: self.step is None)
    @rule()
    def begin(self):
        self.step = self.machine.next_step()
        if self.step is not None:
            slots = [(row.slot, row.position) for row in self.step.rows]
            assert slots == sorted(slots), "rows ascend by slot, then position"

    @precondition(lambda self: self.step is not None)
    @rule(token=st.integers(0, 5))
    def finish(self, token):
        step, self.step = self.step, None
        asking = [row.id for row in step.rows if row.is_last]
        if step.chunk and step.chunk.is_last:
            asking.append(step.chunk.id)
        self.note(self.machine.settle(step, dict.fromkeys(asking, token)))

    @invariant()
    def holds(self):
        self.machine.check()
        statistics = self.machine.statistics()
        assert statistics["waiting"] + statistics["running"] == len(self.open)

    def teardown(self):
        if self.step is not None:
            self.finish(1)
        for id_ in list(self.open):
            self.note(self.machine.handle(Cancel(id_), self.now_s))
        assert self.machine.statistics()["kv_blocks_used"] == 0
        assert not self.open


TestAny = Any.TestCase
