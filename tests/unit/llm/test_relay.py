"""A model in parts says what the whole one says: alone, together, after loss and preemption."""

from __future__ import annotations

import asyncio
import itertools
import queue
import random
import threading
from contextlib import aclosing

import pytest
import torch

from mesh.llm import frames
from mesh.llm.ask import Ask
from mesh.llm.blocks import Ledger
from mesh.llm.engine import Engine
from mesh.llm.prefix import Reuse
from mesh.llm.relay import Relay
from mesh.llm.runner import Whole
from mesh.llm.scheduler import Scheduler
from mesh.llm.stage import StageThreads
from mesh.llm.way import Way
from mesh.models.checkpoint import open_checkpoint
from mesh.models.decoder import Stage
from mesh.models.ends import Ends
from mesh.models.sampling import Sampling
from tests.support.decoders import GPT2, LLAMA, write_decoder

SLOTS, CAP, LAYERS = 4, 256, 5
CUTS = {1: [0, 5], 2: [0, 2, 5], 3: [0, 2, 3, 5], 4: [0, 0, 1, 3, 5]}
KINDS = {
    "llama": LLAMA | {"num_hidden_layers": LAYERS},
    "gpt2": GPT2 | {"n_layer": LAYERS},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp(request.param), KINDS[request.param])


def scheduler(budget=SLOTS * 4, chunk=16, reuse=Reuse.NONE, drafts_max=0):
    ledger = Ledger(SLOTS, CAP, budget, 0 if reuse is Reuse.NONE else SLOTS // 2)
    return Scheduler(ledger, chunk=chunk, rows_max=8, reuse=reuse, drafts_max=drafts_max)


def part(checkpoint, first, last):
    return Stage(checkpoint, first, last, form="float32", slots=SLOTS, cap=CAP)


class Hose:
    """A passage without sockets."""

    def __init__(self, deliver):
        self.frames = queue.SimpleQueue()
        self.receive = self.frames.get
        self.deliver = deliver

    def close(self):
        self.frames.put(None)

    def release(self):
        pass


class Ring:
    """A relay whose stages are threads of this process; frames may be lost or doubled."""

    def __init__(self, folder, count, *, is_together=False, **settings):
        self.is_together = is_together
        self.checkpoint = open_checkpoint(folder)
        self.limits = frames.Limits(SLOTS, CAP, self.checkpoint.architecture.width, 64)
        self.errors = []
        self.relay = Relay(
            Ends(self.checkpoint, form="float32"),
            scheduler(**settings),
            str,
            self.limits,
            report=self.errors.append,
            broken=lambda epoch, error: self.errors.append(error),
        )
        self.epochs = itertools.count(1)
        self.threads, self.homes = [], []
        self.is_lost = False
        self.open(count)

    def open(self, count):
        """Open a new way of so many parts; what is under way is lost."""
        for each in (*self.threads, *self.homes):
            each.close()
        cuts = CUTS[count]
        pairs = list(itertools.pairwise(cuts))
        epoch = next(self.epochs)
        self.homes = [Hose(None) for _ in pairs]  # a lane each
        for home in self.homes:
            threading.Thread(target=self.read_home, args=(home,), daemon=True).start()
        self.threads, nexts = [], self.homes
        for first, last in reversed(pairs[1:]):
            passages = [Hose(self.sender(after)) for after in nexts]
            thread = StageThreads(
                part(self.checkpoint, first, last),
                self.limits,
                epoch=epoch,
                threads=1,
                is_last=not self.threads,
                passages=passages,
                failed=self.errors.append,
            )
            self.threads.append(thread)
            nexts = passages
        own = part(self.checkpoint, *pairs[0]) if pairs[0][1] else None
        self.is_lost = False
        sends = [self.sender(passage) for passage in nexts]
        sharing = len(pairs) if self.is_together else 1
        self.relay.resume(Way(epoch, own, len(pairs) - 1, sends, sharing=sharing))

    def read_home(self, home):
        while (found := home.receive()) is not None:
            self.relay.returned(*found)

    def sender(self, passage):
        def send(header, hidden):
            if not self.is_lost:
                passage.frames.put((header, hidden))

        return send

    def lose(self):
        """Let everything that is sent from now on be lost, and tell the relay."""
        self.is_lost = True
        self.relay.suspend()

    def close(self):
        for each in (*self.threads, *self.homes):
            each.close()
        self.relay.close()
        assert self.errors == []


def asks(count=6, seed=3, tokens=24):
    draw = random.Random(seed)
    return [
        Ask(
            prompt=tuple(draw.randrange(3, 96) for _ in range(draw.choice([1, 7, 40, 90]))),
            sampling=Sampling(temperature=0.8 * (at % 2), seed=at),
            tokens_max=draw.randint(tokens // 2, tokens),
        )
        for at in range(count)
    ]


async def read(engine, ask, said=None):
    said = [] if said is None else said
    async with aclosing(engine.submit(ask)) as stream:
        async for each in stream:
            said.extend(choice.token for choice in each.choices)
    return said


def is_done(task):
    return task.done()


async def read_all(engine, wishes):
    return await asyncio.gather(*(read(engine, wish) for wish in wishes))


@pytest.fixture(scope="module")
def expected(folder):
    """What the whole model says to each question, alone."""
    checkpoint = open_checkpoint(folder)
    whole = Whole(part(checkpoint, 0, LAYERS), Ends(checkpoint, form="float32"))
    engine = Engine(whole, scheduler(), str)
    found = [asyncio.run(read(engine, wish)) for wish in asks()]
    engine.close()
    return found


@pytest.fixture
def ring(folder):
    rings = []

    def make(count, **settings):
        rings.append(Ring(folder, count, **settings))
        return rings[-1]

    yield make
    for each in rings:
        each.close()


@pytest.mark.parametrize("is_together", [False, True])
@pytest.mark.parametrize("count", CUTS)
def test_parts_say_what_the_whole_says(ring, expected, count, is_together):
    """Alone, and all at once beside each other's prompts; in turn and abreast."""
    relay = ring(count, is_together=is_together).relay
    assert expected[:2] == [asyncio.run(read(relay, wish)) for wish in asks()[:2]]
    assert expected == asyncio.run(read_all(relay, asks()))
    assert relay.statistics()["kv_blocks_used"] == 0


@pytest.mark.slow
def test_greedy_tokens_are_those_of_transformers(folder, ring):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = tuple(range(3, 40))
    with torch.inference_mode():
        theirs = model.generate(
            torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
    for count in CUTS:
        ours = asyncio.run(read(ring(count).relay, Ask(prompt=prompt, tokens_max=16)))
        assert theirs[0, len(prompt) :].tolist() == ours


def test_preempted_answers_are_the_same(ring):
    """With memory for two, the newest give way and begin again."""
    wishes = [Ask(prompt=(each.prompt * 40)[:40], tokens_max=100) for each in asks(4)]
    expected = asyncio.run(read_all(ring(1).relay, wishes))
    relay = ring(3, budget=5).relay
    assert expected == asyncio.run(read_all(relay, wishes))
    assert relay.statistics()["preemptions"] > 0
    assert relay.statistics()["kv_blocks_used"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_token_is_lost_or_doubled_when_the_way_is_lost(ring, expected, seed):
    """Lost at random moments, and opened with another number of parts each time."""
    draw = random.Random(seed)

    async def scenario(held):
        answers = [[] for _ in asks()]
        tasks = [
            asyncio.create_task(read(held.relay, wish, said))
            for wish, said in zip(asks(), answers, strict=True)
        ]
        for _ in range(4):
            heard = sum(map(len, answers)) + draw.randint(0, 25)
            while sum(map(len, answers)) < heard and not all(map(is_done, tasks)):  # noqa: ASYNC110
                await asyncio.sleep(0)
            held.lose()
            held.open(draw.choice(list(CUTS)))
        await asyncio.gather(*tasks)
        return answers

    held = ring(3)
    assert expected == asyncio.run(scenario(held))
    caught_up = threading.Event()  # the last way may have been opened after the last word
    held.relay.post(caught_up.set)
    assert caught_up.wait(10)
    assert held.relay.statistics()["recoveries"] == 4
    assert held.relay.statistics()["kv_blocks_used"] == 0


def test_frames_of_old_epochs_doubles_and_noise_change_nothing(ring, expected):
    held = ring(2)
    seen = []
    real = held.relay.returned

    def doubling(header, hidden):
        seen.append((header, hidden))
        real(header, hidden)
        real(*seen[len(seen) // 2])

    for passage in held.threads[0]._passages:
        passage.deliver = doubling
    assert expected == asyncio.run(read_all(held.relay, asks()))
    stale = frames.Frame(77, 1, frames.Kind.ROWS, (frames.Entry(0, 1, 1, False),))
    real(frames.write(stale), None)
    assert expected[:1] == [asyncio.run(read(held.relay, asks()[0]))]


def test_a_frame_that_cannot_be_is_told(ring):
    held = ring(2)
    while held.relay.statistics()["epoch"] is None:
        pass  # the way opens in the engine's thread
    held.relay.returned(b"nonsense", None)
    while not held.errors:
        pass
    assert "a step" in str(held.errors.pop())


def test_who_leaves_frees_everything(ring):
    """Random cancels, between and in the middle of steps, leave no block behind."""
    draw = random.Random(5)

    async def leave(relay, wish):
        async with aclosing(relay.submit(wish)) as stream:
            for _ in range(draw.randint(0, 6)):
                await anext(stream, None)

    async def scenario(relay):
        await asyncio.gather(*(leave(relay, wish) for wish in asks(20)))
        return await read(relay, asks()[0])

    held = ring(3)
    assert asyncio.run(scenario(held.relay))
    while not held.relay.is_idle():
        pass
    held.relay.post(held.relay._scheduler.check)
    assert held.relay.statistics()["kv_blocks_used"] == 0


def test_lanes_follow_the_number_of_speakers(ring):
    """Four rows fill a product; more lanes than stages would only wait."""
    held = ring(3)
    asyncio.run(read_all(held.relay, asks(4)))
    statistics = held.relay.statistics()
    assert statistics["epoch"] == 1
    assert statistics["under_way"] == 0
    assert statistics["round_ms"] >= statistics["compute_ms"] > 0
    assert statistics["hops"] == 3
