"""Runs a language model: takes questions, makes steps in a thread, hands out tokens.

Shell: a thread that computes, and streams that the event loop reads. `llm.scheduler`
decides who is in a step; here time is read, memory is touched, and text is handed over,
one wake-up of the loop per step however many answers it moved.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from concurrent.futures import Future
from dataclasses import dataclass, field

from mesh.errors import Cancelled, DeadlineExceeded, MeshError, Overloaded, RoleError, TooLarge
from mesh.llm.ask import Ask, Finish, Said
from mesh.llm.runner import Choices, Runner, Wish
from mesh.llm.scheduler import Action, Cancel, Emit, Ended, GiveBack, Scheduler, Submit
from mesh.llm.sequence import Reason, Sequence
from mesh.llm.step import Step
from mesh.llm.text import Detokenizer, StopFinder
from mesh.machine import TICK
from mesh.models.sampling import Choice

__all__ = ["Ask", "Engine", "Finish", "Said", "Stream"]

SMOOTH = 0.05  # weight of the newest step in the mean step time: about the last twenty


@dataclass(slots=True)
class _Voice:
    """One answer, as the thread knows it."""

    stream: Stream
    wish: Wish
    text: Detokenizer
    stops: StopFinder
    arrived_s: float
    started_s: float = 0.0
    batch_size: int = 0
    choices: list[Choice] = field(default_factory=list)


class Stream:
    """The answer to one `Ask`, on the event loop. Leaving it early cancels."""

    def __init__(self, engine: Engine, id_: int, loop: asyncio.AbstractEventLoop) -> None:
        self.id, self.loop = id_, loop
        self._engine = engine
        self._said: deque[Said] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._is_over = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Said:
        """Return what is new.

        Raises:
            TooLarge: prompt and answer can never fit.
            Overloaded: the queue is full.
            DeadlineExceeded: time is up.
            RoleError: the arithmetic failed.
        """
        while not self._said:
            if self._is_over:
                raise StopAsyncIteration
            self._wake = self.loop.create_future()
            await self._wake
        said = self._said.popleft()
        if said.finish is not None:
            self._is_over = True
            if said.finish.reason not in (Reason.STOP, Reason.LENGTH):
                raise _error(said.finish)
        return said

    async def aclose(self) -> None:
        """Want no more of it: what it holds is freed before the next step."""
        if not self._is_over:
            self._is_over = True
            self._engine.cancel(self.id)

    def feed(self, said: Said) -> None:
        """Take what is new; called on the loop."""
        self._said.append(said)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def _error(finish: Finish) -> MeshError:
    match finish.reason:
        case Reason.TOO_LARGE:
            return TooLarge(
                f"a prompt of {finish.prompt_tokens} tokens and its answer never fit in here"
            )
        case Reason.OVERLOADED:
            return Overloaded("too many answers wait for this model", retry_after_s=1.0)
        case Reason.DEADLINE:
            return DeadlineExceeded(f"time was up after {finish.answer_tokens} tokens")
        case Reason.CANCELLED:
            return Cancelled("cancelled")
        case _:
            return RoleError("the model failed to compute a step")


@dataclass(slots=True)
class _Counts:
    steps: int = 0
    rows: int = 0
    rows_max: int = 0
    answer_tokens: int = 0
    prompt_tokens: int = 0
    busy_s: float = 0.0
    step_ms: float = 0.0
    ended: dict[str, int] = field(default_factory=dict)


_Item = tuple[_Voice, Ask] | int | Callable[[], None] | None


class Engine:
    """One model, its scheduler and its thread."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        decode: Callable[[Many[int]], str],
        *,
        prepare: Callable[[], None] = lambda: None,
        report: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        """Start the thread, and return when it is prepared.

        Args:
            runner: computes steps.
            scheduler: decides them; belongs to the thread from here on.
            decode: tokens to text.
            prepare: run first in the thread, e.g. to set how many threads torch uses; what it
                raises is raised here.
            report: told what a step raised.
        """
        self._runner, self._scheduler, self._decode = runner, scheduler, decode
        self._prepare, self._report = prepare, report
        self._ids = itertools.count(1)
        self._inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._voices: dict[int, _Voice] = {}
        self._wishes: dict[int, Wish] = {}
        self._outbox: list[tuple[Stream, Said]] = []
        self._counts = _Counts()
        self._is_closed = False
        self._prepared: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name="mesh-llm", daemon=True)
        self._thread.start()
        self._prepared.result()

    # --- on the loop -------------------------------------------------------------------

    def submit(self, ask: Ask) -> Stream:
        """Return the answer's stream; called on the event loop, never blocks."""
        stream = Stream(self, next(self._ids), asyncio.get_running_loop())
        sequence = Sequence(
            id=stream.id,
            prompt=ask.prompt,
            tokens_max=ask.tokens_max,
            tokens_min=ask.tokens_min,
            ends=ask.ends,
            deadline_s=ask.deadline_s,
            priority=ask.priority,
            answer=list(ask.said),
        )
        voice = _Voice(
            stream=stream,
            wish=Wish(sequence, ask.sampling),
            text=Detokenizer(self._decode),
            stops=StopFinder(ask.stops),
            arrived_s=time.monotonic(),
        )
        self._inbox.put((voice, ask))
        return stream

    def cancel(self, id_: int) -> None:
        """End an answer that nobody reads; unknown ones are left alone."""
        self._inbox.put(id_)

    def post(self, job: Callable[[], None]) -> None:
        """Run something in the thread, before its next step."""
        self._inbox.put(job)

    def close(self) -> None:
        """End every answer and the thread; waits for the step at hand."""
        self._is_closed = True
        self._inbox.put(None)
        self._thread.join()

    def statistics(self) -> dict[str, object]:
        """Return what was done and what waits; values may be one step old."""
        counts = self._counts
        busy_s = max(counts.busy_s, 1e-9)
        return {
            **self._scheduler.statistics(),
            "steps": counts.steps,
            "step_ms_mean": round(counts.step_ms, 3),
            "rows_per_step_mean": round(counts.rows / max(1, counts.steps), 2),
            "rows_per_step_max": counts.rows_max,
            "prompt_tokens": counts.prompt_tokens,
            "answer_tokens": counts.answer_tokens,
            "tokens_per_busy_s": round(counts.answer_tokens / busy_s, 1),
            "busy_s": round(counts.busy_s, 3),
            "ended": dict(counts.ended),
        }

    # --- in the thread -----------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._prepare()
        except BaseException as error:  # noqa: BLE001 - raised again where the engine is made
            self._prepared.set_exception(error)
            return
        self._prepared.set_result(None)
        while not self._is_closed:
            self._perform(self._scheduler.handle(TICK, time.monotonic()))
            has_made = self._turn()
            self._hand_over()
            self._take(wait=not has_made)
        for id_ in list(self._voices):
            self._perform(self._scheduler.handle(Cancel(id_), time.monotonic()))
        self._hand_over()

    def _turn(self) -> bool:
        """Make a step; return whether one was due."""
        step = self._scheduler.next_step()
        if step is not None:
            self._make(step)
        return step is not None

    def _take(self, *, wait: bool) -> None:
        """Take what has come; wait for something, or for a deadline, where nothing is due."""
        try:
            if wait:
                wakeup_s = self._scheduler.wakeup_s()
                timeout_s = None if wakeup_s is None else max(0.0, wakeup_s - time.monotonic())
                self._admit(self._wait(timeout_s))
            while True:
                self._admit(self._inbox.get_nowait())
        except queue.Empty:
            return

    def _wait(self, timeout_s: float | None) -> _Item:
        return self._inbox.get(timeout=timeout_s)

    def _admit(self, item: _Item) -> None:
        now_s = time.monotonic()
        if isinstance(item, int):
            self._perform(self._scheduler.handle(Cancel(item), now_s))
        elif isinstance(item, tuple):
            voice, ask = item
            sequence = voice.wish.sequence
            self._voices[sequence.id] = voice
            self._wishes[sequence.id] = voice.wish
            if ask.said:
                self._tell(voice, "".join(voice.stops.push(voice.text.push(t)) for t in ask.said))
            self._perform(self._scheduler.handle(Submit(sequence), now_s))
            if voice.stops.is_found:
                self._perform(self._scheduler.handle(Cancel(sequence.id, Reason.STOP), now_s))
        elif item is not None:
            item()

    def _make(self, step: Step) -> None:
        started_s = time.monotonic()
        self._begin(step, started_s)
        choices: Choices = {}
        try:
            choices = self._runner.run(step, self._wishes)
        except Exception as error:  # noqa: BLE001 - the thread's root: whoever took part is told
            self._fail(step, error)
        self._settle(step, choices)
        self._count(step, time.monotonic() - started_s, len(choices))

    def _begin(self, step: Step, now_s: float) -> None:
        members = step.ids()
        for id_ in members:
            voice = self._voices[id_]
            voice.started_s = voice.started_s or now_s
            voice.batch_size = max(voice.batch_size, len(members))

    def _fail(self, step: Step, error: BaseException) -> None:
        """End everybody in a step that could not be computed, once it is settled."""
        self._report(error)
        for id_ in step.ids():
            self._scheduler.handle(Cancel(id_, Reason.FAILED), 0.0)

    def _settle(self, step: Step, choices: Choices, ids: Iterable[int] | None = None) -> None:
        """Hand a step's tokens to the scheduler, those of drafts one by one behind the rest."""
        for id_, found in choices.items():
            self._voices[id_].choices.append(found[0])
        tokens = {id_: found[0].token for id_, found in choices.items()}
        members = None if ids is None else list(ids)
        self._perform(self._scheduler.settle(step, tokens, members))
        for id_, found in choices.items():
            for choice in found[1:]:
                voice = self._voices.get(id_)
                if voice is None:
                    break  # a token before ended it
                voice.choices.append(choice)
                self._perform(self._scheduler.follow(id_, choice.token))
                self._counts.answer_tokens += 1

    def _count(self, step: Step, took_s: float, tokens: int) -> None:
        counts = self._counts
        counts.steps += 1
        counts.rows += len(step.rows)
        counts.rows_max = max(counts.rows_max, len(step.rows))
        counts.answer_tokens += tokens
        counts.prompt_tokens += len(step.chunk.tokens) if step.chunk else 0
        counts.busy_s += took_s
        share = SMOOTH if counts.steps > 1 else 1.0
        counts.step_ms += share * (took_s * 1e3 - counts.step_ms)

    def _perform(self, actions: Iterable[Action]) -> None:
        actions = list(actions)
        ended = {action.id: action.reason for action in actions if isinstance(action, Ended)}
        for action in actions:
            match action:
                case Emit(id_, token):
                    self._say(id_, token, ended.get(id_))
                case Ended(id_, reason):
                    self._finish(id_, reason)
                case GiveBack(slot):
                    self._runner.give_back(slot)

    def _say(self, id_: int, token: int, ending: Reason | None) -> None:
        """Turn a token into text; the end token has none."""
        voice = self._voices[id_]
        text = "" if ending is Reason.STOP else voice.stops.push(voice.text.push(token))
        if voice.stops.is_found and ending is None:
            self._tell(voice, text)
            self._perform(self._scheduler.handle(Cancel(id_, Reason.STOP), 0.0))
        else:
            self._tell(voice, text)

    def _finish(self, id_: int, reason: Reason) -> None:
        voice = self._voices.pop(id_)
        del self._wishes[id_]
        text = voice.stops.push(voice.text.flush()) + voice.stops.flush()
        if voice.stops.is_found:
            reason = Reason.STOP
        now_s = time.monotonic()
        started_s = voice.started_s or now_s
        sequence = voice.wish.sequence
        finish = Finish(
            reason=reason,
            prompt_tokens=len(sequence.prompt),
            answer_tokens=len(sequence.answer),
            queued_ms=(started_s - voice.arrived_s) * 1e3,
            ran_ms=(now_s - started_s) * 1e3,
            batch_size=max(1, voice.batch_size),
            cached_tokens=sequence.known,
        )
        self._counts.ended[reason.value] = self._counts.ended.get(reason.value, 0) + 1
        self._tell(voice, text, finish)

    def _tell(self, voice: _Voice, text: str, finish: Finish | None = None) -> None:
        said = Said(tuple(voice.choices), text, finish)
        voice.choices.clear()
        self._outbox.append((voice.stream, said))

    def _hand_over(self) -> None:
        """Give the loops what this step said, one wake-up for each loop."""
        outbox, self._outbox = self._outbox, []
        loops = {stream.loop for stream, _ in outbox}
        for loop in loops:
            part = [(stream, said) for stream, said in outbox if stream.loop is loop]
            try:
                loop.call_soon_threadsafe(_feed, part)
            except RuntimeError:
                # The loop was closed: nobody is left to read, so what it asked for is dropped.
                for stream, _ in part:
                    self.cancel(stream.id)


def _feed(part: Iterable[tuple[Stream, Said]]) -> None:
    for stream, said in part:
        stream.feed(said)
