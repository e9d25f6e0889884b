"""Logs why a connection was refused: once for each place and reason.

Shell: of `net.peers`. Who is refused, a node of another version say, comes again and again.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

REFUSALS_MAX = 64  # places and reasons that are remembered; strangers may come from many places


class Refusals:
    """The refusals that the log knows."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    def note(self, address: str, reason: str, *, is_accepted: bool) -> None:
        """Log a refusal, unless it is known; the port of one that came to us means nothing."""
        # What was expected is the reason; what was found instead may differ each time.
        place = address.rpartition(":")[0] if is_accepted else address
        one = (place, reason.partition(", found ")[0])
        if one in self._known:
            return
        if len(self._known) >= REFUSALS_MAX:
            self._known.clear()
        self._known.add(one)
        log.warning("peer.refused", extra={"peer": address, "reason": reason})

    def forget(self, address: str) -> None:
        """Log the next refusal by this address: it has been in order since."""
        self._known = {one for one in self._known if one[0] != address}
