"""A prefix is computed once: whoever needs it has it from a warm slot, or as a copy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mesh.llm.blocks import BLOCK, Ledger
from mesh.llm.prefix import GAIN, REST, Reuse, shared
from mesh.llm.scheduler import Cancel, Ended, GiveBack, Scheduler, Submit
from mesh.llm.sequence import Phase, Reason, Sequence
from mesh.machine import TICK

CHUNK = 32


class Memory:
    """What lies in each slot, position by position; nobody may read what is not his."""

    def __init__(self, machine):
        self.machine = machine
        self.slots = {}
        self.computed = 0
        self.sequences = {}

    def submit(self, sequence):
        self.sequences[sequence.id] = sequence
        return self.act(self.machine.handle(Submit(sequence), 0.0))

    def act(self, actions):
        for action in actions:
            if isinstance(action, GiveBack):
                self.slots[action.slot] = {}
        return actions

    def compute(self, step):
        """Do what a runner would: copy, read, speak."""
        if step.chunk:
            chunk = step.chunk
            if chunk.copy:
                assert chunk.copy.stop == chunk.start
                assert chunk.copy.source != chunk.slot
                source = self.slots[chunk.copy.source]
                target = self.slots.setdefault(chunk.slot, {})
                target |= {at: source[at] for at in range(chunk.copy.start, chunk.copy.stop)}
            self.write(chunk.id, chunk.slot, range(chunk.start, chunk.start + len(chunk.tokens)))
        for row in step.rows:
            if row.is_draft:  # it may prove wrong: then nobody may read it
                self.slots[row.slot][row.position] = row.token
            else:
                self.write(row.id, row.slot, [row.position])

    def write(self, id_, slot, positions):
        tokens = self.sequences[id_].tokens()
        held = self.slots.setdefault(slot, {})
        for at in range(positions[0]):
            assert held.get(at) == tokens[at], "a position that is another's, or was never read"
        for at in positions:
            held[at] = tokens[at]
            self.computed += 1

    def play(self, token=9, steps_max=400):
        """Make steps until nobody is due."""
        for _ in range(steps_max):
            step = self.machine.next_step()
            if step is None:
                return
            self.compute(step)
            self.act(self.machine.settle(step, dict.fromkeys(step.asking(), token)))
            self.machine.check()
        raise AssertionError("it does not end")


def memory(slots=4, warm_max=2, budget=None, cap=512, reuse=Reuse.ALL, chunk=CHUNK, drafts_max=0):
    ledger = Ledger(slots, cap, slots * cap // BLOCK if budget is None else budget, warm_max)
    machine = Scheduler(ledger, chunk=chunk, rows_max=8, reuse=reuse, drafts_max=drafts_max)
    return Memory(machine)


def sequence(id_, prompt, tokens_max=4, **wishes):
    return Sequence(id=id_, prompt=tuple(prompt), tokens_max=tokens_max, **wishes)


def figures(held):
    found = held.machine.statistics()
    return found["prefix_hits"], found["prefix_tokens"], found["prefix_copies"]


def test_the_second_turn_of_a_conversation_reads_only_what_is_new():
    held = memory()
    first = range(100, 200)
    held.submit(sequence(1, first, tokens_max=10))
    held.play()
    assert held.computed == 100 + 9, "the last token is said, and not computed"
    held.submit(sequence(2, [*first, *[9] * 10, *range(300, 320)], tokens_max=1))
    held.play()
    assert figures(held) == (1, 109, 0)
    assert held.computed == 109 + 21


def test_asking_the_same_again_reads_the_end_again():
    """So much of it that the products are the same ones, bit for bit."""
    held = memory()
    for id_ in (1, 2):
        held.submit(sequence(id_, range(100, 300)))
        held.play()
    assert figures(held) == (1, 200 - REST, 0)


def test_several_answers_to_one_prompt_read_it_once():
    held = memory(slots=8)
    for id_ in range(4):
        held.submit(sequence(id_, range(100, 400), tokens_max=5))
    held.play()
    assert figures(held) == (3, 3 * (300 - REST), 3)
    assert held.computed == 300 + 3 * REST + 4 * 4


def test_a_part_of_a_warm_slot_is_copied_and_the_rest_stays():
    held = memory()
    system, first, second = range(100), range(200, 300), range(300, 400)
    held.submit(sequence(1, [*system, *first]))
    held.play()
    held.submit(sequence(2, [*system, *second]))
    held.play()
    assert figures(held) == (1, 100, 1)
    held.submit(sequence(3, [*system, *first, *[9] * 3, 7]))
    held.play()
    assert figures(held) == (2, 100 + 203, 1)


def test_with_one_slot_the_only_one_is_taken_over():
    held = memory(slots=1, warm_max=1)
    held.submit(sequence(1, [*range(100), *range(200, 300)]))
    held.play()
    held.submit(sequence(2, [*range(100), *range(300, 400)]))
    held.play()
    assert figures(held) == (1, 100, 0)


def test_exact_reuse_keeps_to_whole_chunks_of_prompts():
    held = memory(reuse=Reuse.EXACT)
    prompt = range(100, 200)
    held.submit(sequence(1, prompt, tokens_max=10))
    held.play()
    held.submit(sequence(2, [*prompt, *[9] * 10, *range(300, 320)]))
    step = held.machine.next_step()
    assert step.chunk.start % CHUNK == 0
    assert figures(held)[1] == 96


def test_a_failed_step_leaves_nothing_warm():
    held = memory()
    held.submit(sequence(1, range(100, 200)))
    step = held.machine.next_step()
    held.machine.handle(Cancel(1, Reason.FAILED), 0.0)
    assert held.machine.settle(step, {}) == [Ended(1, Reason.FAILED)]
    assert held.machine.statistics()["kv_blocks_warm"] == 0


def test_nothing_is_warm_after_a_reset():
    held = memory()
    held.submit(sequence(1, range(100, 200)))
    held.play()
    assert held.machine.statistics()["kv_blocks_warm"] == 2
    held.machine.reset()
    held.submit(sequence(2, range(100, 200)))
    held.play()
    assert figures(held) == (0, 0, 0)


def test_what_makes_room_is_counted():
    """Once for each warm slot that lost its end or all; one that is taken over lost nothing."""
    held = memory(slots=3, warm_max=2)
    for id_ in range(3):
        held.submit(sequence(id_, range(1000 * id_, 1000 * id_ + 100)))
        held.play()
    assert held.machine.statistics()["prefix_evictions"] == 1, "two may be warm"
    held.submit(sequence(9, range(2000, 2150)))
    held.play()
    assert figures(held) == (1, 100, 0)
    assert held.machine.statistics()["prefix_evictions"] == 1


def test_what_is_warm_goes_before_anybody_gives_way():
    held = memory(slots=3, warm_max=2, budget=6, cap=384)
    held.submit(sequence(1, range(100, 250)))
    held.play()
    assert held.machine.statistics()["kv_blocks_warm"] == 3
    held.submit(sequence(2, range(500, 600), tokens_max=250))
    held.play()
    assert held.machine.statistics()["preemptions"] == 0
    assert held.machine.statistics()["prefix_evictions"] > 0


def test_without_reuse_everything_is_computed():
    held = memory(reuse=Reuse.NONE, warm_max=0)
    for id_ in (1, 2):
        held.submit(sequence(id_, range(100, 200)))
        held.play()
    assert figures(held) == (0, 0, 0)


tokens = st.lists(st.integers(0, 1), max_size=200).map(tuple)


@given(tokens, tokens, tokens)
def test_what_is_shared_is_the_longest_common_beginning(start, one, other):
    """As far as the tokens are the same, and no further."""
    one, other = start + one, start + other
    count = shared(one, other)
    assert one[:count] == other[:count]
    assert one[count : count + 1] != other[count : count + 1] or count == len(one) == len(other)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("tgrwa"), st.integers(1, 300)), max_size=60))
def test_warm_and_held_stay_within_the_budget(moves):
    """Any order of taking, growing, releasing warm or cold, and adopting."""
    ledger = Ledger(slots=4, cap=256, budget=9, warm_max=2)
    for move, size in moves:
        slots, size = sorted(ledger.held), min(size, 256)
        if move == "t":
            can = ledger.has_room(size) and len(slots) < 4
            assert can == (ledger.take(size) is not None)
        elif move == "g" and slots:
            ledger.grow(slots[size % len(slots)], size)
        elif move in "rw" and slots:
            slot = slots[size % len(slots)]
            kept = tuple(range(size, size + ledger.held[slot] * BLOCK - 3)) if move == "w" else ()
            assert not set(ledger.release(slot, kept)) & (ledger.held.keys() | ledger.warm.keys())
            assert sum(ledger.touched.values()) <= ledger.budget
        elif move == "a" and ledger.warm:
            slot = next(iter(ledger.warm))
            ledger.adopt(slot, len(ledger.warm[slot]) + 1)
        ledger.check()


@pytest.mark.parametrize("reuse", Reuse)
def test_a_warm_slot_beside_others_costs_no_neighbourhood(reuse):
    """Four at once are neighbours, however many came and went before."""
    held = memory(slots=16, warm_max=8, reuse=reuse)
    for start in range(0, 60, 4):
        for id_ in range(start, start + 4):
            held.submit(sequence(id_, range(1000 * id_, 1000 * id_ + 70), tokens_max=20))
        held.play()
    taken = []
    for id_ in range(100, 104):
        held.submit(sequence(id_, range(1000 * id_, 1000 * id_ + 70)))
        held.machine.next_step()
    taken = sorted(each.slot for each in held.machine._running.values())
    assert taken == list(range(taken[0], taken[0] + 4))


class Random(RuleBasedStateMachine):
    """Joining, leaving and failing in any order: nobody reads what he did not compute."""

    reuse, drafts_max = Reuse.ALL, 0

    def __init__(self):
        super().__init__()
        self.held = memory(
            slots=3, warm_max=2, budget=8, cap=256, reuse=self.reuse, chunk=16,
            drafts_max=self.drafts_max,
        )  # fmt: skip
        self.count, self.steps, self.open = 0, [], set()

    def note(self, actions):
        self.held.act(actions)
        self.open -= {each.id for each in actions if isinstance(each, Ended)}

    @rule(
        start=st.sampled_from([0, 40, 90, 150]),
        family=st.integers(0, 2),
        more=st.integers(1, 60),
        tokens=st.integers(1, 60),
        said=st.integers(0, 40),
        deadline=st.sampled_from([1.0, 2.0, float("inf")]),
    )
    def submit(self, start, family, more, tokens, said, deadline):
        """Several share a beginning; some come with an answer that was begun elsewhere."""
        self.count += 1
        prompt = [*range(1, start + 1), *range(1000 * family, 1000 * family + more)]
        answer = [3] * min(said, tokens - 1)
        each = sequence(
            self.count, prompt, tokens, answer=answer, priority=more % 2, deadline_s=deadline
        )
        self.open.add(self.count)
        self.note(self.held.submit(each))

    @rule(pick=st.integers(0, 30), reason=st.sampled_from([Reason.CANCELLED, Reason.FAILED]))
    def cancel(self, pick, reason):
        busy = {id_ for step in self.steps for id_ in step.ids()}
        ids = sorted(self.open - busy if reason is Reason.FAILED else self.open)
        if ids:
            self.note(self.held.machine.handle(Cancel(ids[pick % len(ids)], reason), 0.0))

    @rule(now=st.sampled_from([0.5, 1.5, 2.5]))
    def late(self, now):
        """Whoever is late leaves, at once or with the step that it is in."""
        self.note(self.held.machine.handle(TICK, now))

    @precondition(lambda self: len(self.steps) < 3)
    @rule(speakers=st.integers(0, 3))
    def begin(self, speakers):
        """Steps are computed in the order in which they are made, and may come back later."""
        step = self.held.machine.next_step(speakers_max=speakers)
        if step is not None:
            self.held.compute(step)
            early = step.ids() - set(step.asking())
            self.note(self.held.machine.settle(step, {}, early))
            self.steps.append(step)

    @precondition(lambda self: self.steps)
    @rule(token=st.integers(2, 4))
    def finish(self, token):
        step = self.steps.pop(0)
        asking = step.asking()
        self.note(self.held.machine.settle(step, dict.fromkeys(asking, token), asking))
        wrong = set()
        for row in step.rows:
            wrong |= {row.id} if row.is_draft and row.token != token else set()
            if row.is_draft and row.id in self.open - wrong:
                self.note(self.held.machine.follow(row.id, token))

    @rule(count=st.integers(1, 30), token=st.integers(2, 4))
    def go_on(self, count, token):
        """For a while nothing else happens."""
        for _ in range(count):
            self.begin(3)
            while self.steps:
                self.finish(token)

    @rule()
    def lose(self):
        """A way that is lost takes all memory with it."""
        self.steps.clear()
        self.note(self.held.machine.reset())
        self.held.slots.clear()

    @invariant()
    def holds(self):
        self.held.machine.check()

    def teardown(self):
        while self.steps:
            self.finish(3)
        for id_ in sorted(self.open):
            self.note(self.held.machine.handle(Cancel(id_), 0.0))
        assert self.held.machine.statistics()["kv_blocks_used"] == 0
        assert not self.open
        self.held.submit(sequence(0, range(2000, 2200), tokens_max=56))
        self.held.play()  # it takes all of a slot, and what is warm makes room
        assert self.held.sequences[0].phase is Phase.DONE


class Exact(Random):
    """The same, with whole chunks only."""

    reuse = Reuse.EXACT


class Drafted(Random):
    """The same, with drafts that are right or wrong."""

    drafts_max = 3


TestRandom = Random.TestCase
TestExact = Exact.TestCase
TestDrafted = Drafted.TestCase


def test_little_is_not_worth_a_choice_of_slots():
    held = memory()
    held.submit(sequence(1, range(100, 200)))
    held.play()
    held.submit(sequence(2, [*range(100, 100 + GAIN - 1), *range(300, 400)]))
    held.play()
    assert figures(held) == (0, 0, 0)
