"""Guesses follow what was said; drafts leave memory, order and answers as they would be."""

from __future__ import annotations

import random

import pytest

from mesh.llm.blocks import Ledger
from mesh.llm.lookup import Lookup, cost, worth
from mesh.llm.scheduler import Cancel, Emit, Ended, GiveBack, Scheduler, Submit
from mesh.llm.sequence import Reason, Sequence

SLOTS, CAP = 3, 192


def lookup(prompt, answer=()):
    return Lookup(Sequence(1, tuple(prompt), tokens_max=99, answer=list(answer)))


def guess(found, most):
    found.judge()
    return found.guess(most)


def test_it_says_what_followed_the_same_words_the_last_time():
    """The newest place counts, and the answer's words count as the prompt's do."""
    assert guess(lookup([1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 1, 2, 3]), 2) == (6, 7)
    assert guess(lookup([1, 2, 3, 4, 5], [1, 2, 3]), 2) == (4, 5)


def test_new_words_give_no_guess():
    """Nobody knows what follows words that were never said."""
    assert guess(lookup([1, 2, 3, 4]), 4) == ()
    assert guess(lookup([1]), 4) == ()


def test_what_goes_round_is_guessed_to_go_on_so():
    """A loop shorter than the drafts is followed through its own guesses."""
    assert guess(lookup([8, 1, 2, 1, 2, 1, 2]), 5) == (1, 2, 1, 2, 1)


def test_who_is_never_right_stops_and_tries_again_later():
    """Odds fall with each wrong draft, and come back while none is tried."""
    found = lookup([1, 2, 3])
    for token in range(10, 40):
        found.tries((0,))
        found._sequence.answer.append(token)
        assert found.judge() == 0
    assert worth(found.odds, 7, 1, 1.0) == 0
    for _ in range(100):
        found.judge()
    assert worth(found.odds, 7, 1, 1.0) > 0


def test_drafts_that_come_true_are_counted_up_to_the_first_that_does_not():
    """Three drafts, of which the second is wrong: one was right."""
    found = lookup([1, 2, 3])
    found.tries((4, 5, 6))
    found._sequence.answer += [4, 9]
    assert found.judge() == 1
    assert found.judge() == 0


@pytest.mark.parametrize(
    ("odds", "rows", "expected"), [(1.0, 1, 7), (0.0, 1, 0), (0.5, 16, 0), (0.5, 1, 2)]
)
def test_as_many_drafts_as_pay(odds, rows, expected):
    """Certain ones all the way, hopeless ones never, and hardly any beside many others."""
    assert worth(odds, 7, rows, float(rows)) == expected


def test_a_step_of_more_rows_costs_more():
    """Whatever the kernels' steps, the cost of rows grows."""
    assert cost(1) == 1
    assert all(cost(rows) < cost(rows + 1) for rows in range(1, 40))


class World:
    """Sequences that a made-up model answers: its words depend on the last two, and repeat.

    Memory holds the token that was computed at each position, so a row that would see
    anything but its own past is found.
    """

    def __init__(self, seed, drafts_max, budget):
        self.draw = random.Random(seed)
        ledger = Ledger(SLOTS, CAP, budget)
        self.machine = Scheduler(ledger, chunk=16, rows_max=8, drafts_max=drafts_max)
        self.memory = [[None] * CAP for _ in range(SLOTS)]
        self.sequences, self.answers, self.reasons = {}, {}, {}
        self.steps = 0

    def submit(self, id_, prompt, **wishes):
        self.sequences[id_] = Sequence(id_, tuple(prompt), **wishes)
        self.answers[id_] = []
        self.perform(self.machine.handle(Submit(self.sequences[id_]), 0.0))

    def perform(self, actions):
        for action in actions:
            match action:
                case Emit(id_, token):
                    self.answers[id_].append(token)
                case Ended(id_, reason):
                    self.reasons[id_] = reason
                case GiveBack(slot):
                    self.memory[slot] = [None] * CAP
        self.machine.check()

    def write(self, slot, start, tokens):
        self.memory[slot][start : start + len(tokens)] = tokens

    def said(self, slot, position):
        past = self.memory[slot][: position + 1]
        assert None not in past
        return model(past)

    def step(self):
        step = self.machine.next_step()
        if step is None:
            return False
        self.steps += 1
        if chunk := step.chunk:
            self.write(chunk.slot, chunk.start, chunk.tokens)
        for row in step.rows:
            assert row.position < self.machine._ledger.held[row.slot] * 64
            self.write(row.slot, row.position, [row.token])
        outputs = (
            [self.said(chunk.slot, len(self.sequences[chunk.id].prompt) - 1)]
            if (chunk and chunk.is_last)
            else []
        )
        outputs += [self.said(row.slot, row.position) for row in step.rows if row.is_last]
        found = {}
        for query, token in zip(step.queries(), outputs, strict=True):
            said = found.setdefault(query.id, [])
            if tuple(said) == query.ahead:
                said.append(token)
        self.perform(self.machine.settle(step, {id_: said[0] for id_, said in found.items()}))
        for id_, said in found.items():
            for token in said[1:]:
                if id_ not in self.reasons:
                    self.perform(self.machine.follow(id_, token))
        return True


def model(past):
    """Return what follows: mostly what follows the last two words always, at times not."""
    return (past[-1] * 3 + past[-2] + (len(past) % 11 == 0)) % 7 + 1


def alone(prompt, tokens):
    """Return what the model says by itself."""
    past = list(prompt)
    for _ in range(tokens):
        past.append(model(past))
    return past[len(prompt) :]


@pytest.mark.parametrize("budget", [9, 5])  # blocks: enough for all, and too few
@pytest.mark.parametrize("seed", range(6))
def test_everybody_says_what_they_would_without_drafts(seed, budget):
    """Among others, preempted, cancelled: the same words, in fewer steps."""
    steps = {}
    for drafts_max in (0, 7):
        world, draw = World(seed, drafts_max, budget), random.Random(seed)
        for id_ in range(1, 7):
            prompt = [draw.randrange(1, 8) for _ in range(draw.randrange(3, 50))]
            world.submit(id_, prompt, tokens_max=draw.randrange(1, 120))
        while world.step():
            if world.steps == 40:
                world.perform(world.machine.handle(Cancel(6), 0.0))
        for id_, answer in world.answers.items():
            sequence = world.sequences[id_]
            assert answer == alone(sequence.prompt, len(answer))
            assert len(answer) == sequence.tokens_max or world.reasons[id_] is Reason.CANCELLED
        steps[drafts_max] = world.steps
        counts = world.machine.statistics()
        assert (counts["drafts"] > 0) == (drafts_max > 0)
        assert counts["drafts_right"] <= counts["drafts"]
    assert steps[7] < steps[0]


def test_an_end_among_right_drafts_ends_the_answer_there():
    """What comes behind an end token was never said."""
    prompt = [1, 2, 3, 1, 2, 3, 1, 2, 3]
    whole = alone(prompt, 60)
    last = whole[40]
    world = World(0, 7, 9)
    world.submit(1, prompt, tokens_max=60, tokens_min=whole.index(last), ends=frozenset({last}))
    while world.step():
        pass
    assert world.answers[1] == whole[: whole.index(last) + 1]
    assert world.reasons[1] is Reason.STOP
