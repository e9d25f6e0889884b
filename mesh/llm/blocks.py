"""Who holds how much of the memory for keys and values.

Pure. A ledger, not the memory: `slots` places for sequences, and a budget of positions
over all of them, counted in blocks of 64. A slot's memory is contiguous and mapped lazily
(`models.attention`), so nothing is paged or gathered; the budget bounds what is touched.
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
        held: blocks per slot in use.
        touched: blocks per slot that were ever written and not given back.
    """

    slots: int
    cap: int
    budget: int
    held: dict[int, int] = field(default_factory=dict)
    touched: dict[int, int] = field(default_factory=dict)

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return self.budget - sum(self.held.values())

    def can_ever(self, positions: int) -> bool:
        """Return whether an otherwise empty engine could hold that many."""
        return positions <= self.cap and blocks(positions) <= self.budget

    def has_room(self, positions: int) -> bool:
        """Return whether that many positions are free now."""
        return blocks(positions) <= self.free

    def take(self, positions: int) -> int | None:
        """Return a slot with that many positions, or None when there is no room."""
        if len(self.held) == self.slots or not self.has_room(positions):
            return None
        # The lowest: rows of neighbouring slots attend in one product.
        slot = next(slot for slot in range(self.slots) if slot not in self.held)
        self.held[slot] = blocks(positions)
        return slot

    def grow(self, slot: int, positions: int) -> bool:
        """Make the slot hold that many positions; return False when there is no room."""
        more = blocks(positions) - self.held[slot]
        if more > self.free:
            return False
        self.held[slot] += max(0, more)
        return True

    def release(self, slot: int) -> bool:
        """Free the slot; return whether its memory must go back to the system.

        Memory once written stays with the process and is written again by the next
        sequence of the slot. It goes back only where slots together would outgrow the budget.
        """
        self.touched[slot] = max(self.touched.get(slot, 0), self.held.pop(slot))
        if sum(self.touched.values()) <= self.budget:
            return False
        del self.touched[slot]
        return True

    def check(self) -> None:
        """Assert every invariant."""
        assert sum(self.held.values()) <= self.budget
        assert all(0 <= slot < self.slots for slot in self.held)
        assert all(0 < count <= blocks(self.cap) for count in self.held.values())
