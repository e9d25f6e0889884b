r"""Who holds how much of the memory for keys and values.

Pure. A ledger, not the memory: `slots` places for sequences, and a budget of positions
over all of them, counted in blocks of 64. A slot's memory is contiguous and mapped lazily
(`models.attention`), so nothing is paged or gathered; the budget bounds what is touched.

    cold --take--> held --release--> cold
                    ^  \--release with tokens--> warm --adopt--> held
                                                  '--when slots or blocks are wanted--> cold

A warm slot is nobody's, and still has what its last sequence left, in case another begins
as that one did (`llm.prefix`). It counts as free: the one used longest ago is cut from its
end, or taken, before anybody who runs has to give way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

BLOCK = 64  # positions; attention pads to this as well


def blocks(positions: int) -> int:
    """Return how many blocks hold that many positions."""
    return -(-positions // BLOCK)


@dataclass(slots=True)
class Ledger:
    """Slots and blocks of one engine.

    Attributes:
        slots: sequences that can hold memory at once.
        cap: positions of one slot, at most.
        budget: blocks that all slots together may hold.
        warm_max: slots that may be warm at once.
        held: blocks per slot in use.
        warm: tokens whose keys and values lie in a slot of nobody's, by slot; the one used
            longest ago is first.
        touched: blocks per slot that were ever written and not given back.
        evictions: how often a warm slot lost its end, or all, to somebody else.
    """

    slots: int
    cap: int
    budget: int
    warm_max: int = 0
    held: dict[int, int] = field(default_factory=dict)
    warm: dict[int, tuple[int, ...]] = field(default_factory=dict)
    touched: dict[int, int] = field(default_factory=dict)
    evictions: int = 0

    @property
    def free(self) -> int:
        """Blocks that nobody holds; some of them may be warm."""
        return self.budget - sum(self.held.values())

    @property
    def warm_blocks(self) -> int:
        """Blocks that are warm."""
        return sum(blocks(len(tokens)) for tokens in self.warm.values())

    def can_ever(self, positions: int) -> bool:
        """Return whether an otherwise empty engine could hold that many."""
        return positions <= self.cap and blocks(positions) <= self.budget

    def has_room(self, positions: int) -> bool:
        """Return whether that many positions are free now."""
        return blocks(positions) <= self.free

    def has_slot(self, *, beside: int = -1) -> bool:
        """Return whether a slot is free, `beside` left out."""
        return len(self.held) + (beside in self.warm) < self.slots

    def take(self, positions: int, *, spare: int = -1) -> int | None:
        """Return a slot with that many positions, not `spare`, or None when there is no room."""
        if not self.has_slot(beside=spare) or not self.has_room(positions):
            return None
        slot = self._next_slot(spare)
        self._evict(slot)
        self.held[slot] = blocks(positions)
        self._cut()
        return slot

    def adopt(self, slot: int, positions: int) -> bool:
        """Take a warm slot as it is; return False when there is no room."""
        if not self.has_room(positions):
            return False
        del self.warm[slot]
        self.held[slot] = blocks(positions)
        self._cut()
        return True

    def refresh(self, slot: int) -> None:
        """Count a warm slot as used now."""
        self.warm[slot] = self.warm.pop(slot)

    def grow(self, slot: int, positions: int) -> bool:
        """Make the slot hold that many positions; return False when there is no room."""
        more = blocks(positions) - self.held[slot]
        if more > self.free:
            return False
        if more > 0:
            self.held[slot] += more
            self._cut()
        return True

    def release(self, slot: int, tokens: tuple[int, ...] = ()) -> list[int]:
        """Free the slot; return the slots whose memory must go back to the system.

        Memory once written stays with the process and is written again by the next
        sequence of the slot. It goes back only where slots together would outgrow the budget.

        Args:
            slot: in use until now.
            tokens: whose keys and values lie in it from its start, to keep it warm for them.
        """
        self.touched[slot] = max(self.touched.get(slot, 0), self.held.pop(slot))
        if self.warm_max and len(tokens) >= BLOCK:
            self._keep(slot, tokens)
        back = []
        while sum(self.touched.values()) > self.budget:
            # What is cold goes first; then what was warm longest.
            idle = [each for each in self.touched if each not in self.held]
            leaving = min(idle, key=lambda each: (each in self.warm, self._age(each)))
            self._evict(leaving)
            del self.touched[leaving]
            back.append(leaving)
        return back

    def forget(self) -> None:
        """Let nothing be warm: the memory was lost."""
        self.warm.clear()

    def check(self) -> None:
        """Assert every invariant."""
        assert sum(self.held.values()) + self.warm_blocks <= self.budget
        assert self.held.keys().isdisjoint(self.warm)
        assert all(0 <= slot < self.slots for slot in (*self.held, *self.warm))
        assert all(0 < count <= blocks(self.cap) for count in self.held.values())
        assert all(BLOCK <= len(tokens) <= self.cap for tokens in self.warm.values())
        assert len(self.warm) <= self.warm_max

    def _keep(self, slot: int, tokens: tuple[int, ...]) -> None:
        # Whoever could use a beginning of these tokens can use these.
        for other in [s for s, known in self.warm.items() if tokens[: len(known)] == known]:
            del self.warm[other]
        self.warm[slot] = tokens
        while len(self.warm) > self.warm_max:
            self._evict(next(iter(self.warm)))

    def _evict(self, slot: int) -> None:
        self.evictions += self.warm.pop(slot, None) is not None

    def _cut(self) -> None:
        """Let the slots warm longest lose their ends, until all is within the budget."""
        over = self.warm_blocks - self.free
        for slot, tokens in list(self.warm.items()):
            if over <= 0:
                return
            left = max(0, blocks(len(tokens)) - over)
            over -= blocks(len(tokens)) - left
            self.warm[slot] = tokens[: left * BLOCK]
            self.evictions += 1
            if not left:
                del self.warm[slot]

    def _next_slot(self, spare: int) -> int:
        """Return the slot to take: a cold one if there is one.

        Beside one in use, as rows of neighbouring slots attend in one product; where nobody
        runs, one with room for neighbours.
        """
        idle = [slot for slot in range(self.slots) if slot not in self.held and slot != spare]
        cold = [slot for slot in idle if slot not in self.warm]
        beside = {each + step for each in self.held for step in (-1, 1)}

        def rank(slot: int) -> tuple[bool, int, int]:
            return bool(beside) and slot not in beside, self._age(slot), slot

        if cold and not self.held:
            return max(cold, key=lambda slot: (_stretch(slot, cold), -slot))
        return min(cold or idle, key=rank)

    def _age(self, slot: int) -> int:
        """Return the place of a warm slot in the order of leaving; 0 for others."""
        return list(self.warm).index(slot) + 1 if slot in self.warm else 0


def _stretch(slot: int, among: list[int]) -> int:
    """Return how many neighbours upwards are among those, itself included."""
    count = 0
    while slot + count in among:
        count += 1
    return count
