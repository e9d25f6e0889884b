"""What a door knows of one node's service of one role, and which nodes are fit to be asked.

Pure. The router tells an edge of every call; `fit` filters by breakers and by
nodes whose role fails where the others' does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from mesh.errors import Cancelled, MeshError, RoleError
from mesh.policy.balance import View
from mesh.policy.breaker import Breaker, is_failure

SAMPLES_MAX = 256  # recent calls that the p95 is of
SAMPLES_MIN = 20  # fewer say nothing about a twentieth
SAMPLES_FRESH = 16  # the p95 is worked out again after so many
HEDGE_FACTOR = 1.2  # at the p95 itself one healthy call in twenty would use the budget up
FAULTS_MIN = 20  # calls before a node can count as the odd one out
FAULT_SHARE_MAX = 0.5  # half of its answers are the role's own errors …
FAULT_SHARE_FINE = 0.1  # … while another node has next to none: the node is broken, not the items
FAULT_SHARE_MIN = 1e-6  # a share below this is none
FAULT_HALF_S = 10.0  # it is given another chance as its record fades
_FRESH = 0.1


class Edge:
    """One role at one address."""

    __slots__ = ("_fault_at_s", "_fault_share", "_fresh", "_p95_s", "_slot", "_took_s", "breaker",
                 "calls", "failures", "view")  # fmt: skip

    def __init__(self, now_s: float) -> None:
        self.view = View(now_s)
        self.breaker = Breaker()
        self.calls = 0
        self.failures = 0
        self._took_s: list[float] = []
        self._slot = 0
        self._fresh = 0
        self._p95_s = 0.0
        self._fault_share = 0.0
        self._fault_at_s = now_s

    def sent(self, now_s: float) -> None:
        """Note a call that leaves."""
        self.calls += 1
        self.view.in_flight += 1
        self.breaker.sent(now_s)

    def began(self) -> None:
        """Note the first piece of an answer; what ends the call is told that it was noted."""
        self.breaker.began()

    def answered(self, now_s: float, took_s: float, *, has_begun: bool = False) -> None:
        """Note an answer; `view.answered` learns from what is in it."""
        self.view.in_flight -= 1
        self._reached(has_begun)
        self._sample(took_s)
        if self._fault_share:
            self._record(now_s, 0.0)

    def failed(
        self,
        error: MeshError,
        now_s: float,
        took_s: float,
        rng: Random,
        *,
        has_begun: bool = False,
    ) -> None:
        """Note a call that ended in an error."""
        self.view.in_flight -= 1
        self.failures += 1
        if is_failure(error, took_s, self.view.call_s):
            self.breaker.failed(now_s, rng)
        elif not isinstance(error, Cancelled):
            self._reached(has_begun)
        elif not has_begun:
            self.breaker.abandoned()
        if isinstance(error, RoleError):
            self._record(now_s, 1.0)

    def abandoned(self, now_s: float, took_s: float, *, has_begun: bool = False) -> None:
        """Note a call that we gave up: it would have taken longer than this."""
        self.view.in_flight -= 1
        self.view.lagged(now_s, took_s)
        if not has_begun:
            self.breaker.abandoned()

    def p95_s(self) -> float | None:
        """Return the time that one call in twenty exceeds; None until enough are known."""
        if len(self._took_s) < SAMPLES_MIN:
            return None
        if self._fresh >= SAMPLES_FRESH or not self._p95_s:
            self._p95_s = sorted(self._took_s)[int(0.95 * (len(self._took_s) - 1))]
            self._fresh = 0
        return self._p95_s

    def fault_share(self, now_s: float) -> float | None:
        """Return the recent share of the role's own errors; None until enough calls are known."""
        if self.calls < FAULTS_MIN:
            return None
        fading: float = 0.5 ** ((now_s - self._fault_at_s) / FAULT_HALF_S)
        return self._fault_share * fading

    def _reached(self, has_begun: bool) -> None:
        if has_begun:
            self.breaker.ended()
        else:
            self.breaker.succeeded()

    def _sample(self, took_s: float) -> None:
        self._fresh += 1
        if len(self._took_s) < SAMPLES_MAX:
            self._took_s.append(took_s)
        else:
            self._took_s[self._slot] = took_s
            self._slot = (self._slot + 1) % SAMPLES_MAX

    def _record(self, now_s: float, fault: float) -> None:
        share = self._fault_share + _FRESH * (fault - self._fault_share)
        self._fault_share = share if share > FAULT_SHARE_MIN else 0.0
        self._fault_at_s = now_s


def fit(edges: Sequence[Edge], now_s: float) -> list[int]:
    """Return the indices of the edges that may be asked now; [] if every breaker is open."""
    allowed = [index for index, edge in enumerate(edges) if edge.breaker.allows(now_s)]
    if len(allowed) < 2:
        return allowed
    shares = [edges[index].fault_share(now_s) for index in allowed]
    best = min((share for share in shares if share is not None), default=1.0)
    if best >= FAULT_SHARE_FINE:
        return allowed
    return [
        index
        for index, share in zip(allowed, shares, strict=True)
        if share is None or share <= FAULT_SHARE_MAX
    ]


def hedge_after_s(edges: Sequence[Edge], least_s: float) -> float | None:
    """Return when a second node is asked too: a little after the best node's p95; None: unknown.

    Of the best, because a slow node's own p95 would excuse its slowness.
    """
    known = [p95_s for edge in edges if (p95_s := edge.p95_s()) is not None]
    return max(least_s, HEDGE_FACTOR * min(known)) if known else None
