"""Seals packets with the mesh's secret, and opens only what was sealed with it.

Pure: random bytes are an argument. ChaCha20-Poly1305 under a key per sender and
boot, derived with HKDF from the secret, so that nodes never share a nonce space
and no key wears out: one boot would have to send 2^64 packets.

    "S" | id length, 1 | id | boot, 8 | salt, 4 | counter, 8 | ciphertext | tag, 16
     '------------------- associated data, with the label ---'

The nonce is salt and counter. A receiver remembers which of the last `WINDOW`
counters it has seen of each sender and boot, and takes none of them twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.errors import RemoteProtocolError

WINDOW = 1024  # packets that may overtake each other: seconds at the busiest
SENDERS_MAX = 4096  # keys and windows kept; beyond, the oldest are derived again when needed
SALT_BYTES = 4
_TAIL = Struct(">Q4sQ")
_TAG_BYTES = 16

NOT_SEALED, WRONG_SEAL, REPLAYED = "not_sealed", "wrong_seal", "replayed"


@dataclass(slots=True)
class _Window:
    """Which counters were seen: the highest, and a bit for each one below it."""

    highest: int = -1
    seen: int = 0

    def admit(self, counter: int) -> bool:
        """Return whether `counter` is new, and remember it."""
        ahead = counter - self.highest
        if ahead > 0:
            self.seen = ((self.seen << min(ahead, WINDOW)) | 1) & ((1 << WINDOW) - 1)
            self.highest = counter
            return True
        if ahead <= -WINDOW or self.seen >> -ahead & 1:
            return False
        self.seen |= 1 << -ahead
        return True


class Seal:
    """One node's seal."""

    def __init__(self, secret: str, label: str, node: str, boot: int, salt: bytes) -> None:
        assert secret
        assert len(salt) == SALT_BYTES
        self._secret, self._label = secret.encode(), label.encode()
        self._node, self._boot, self._salt = node.encode(), boot, salt
        self._counter = 0
        self._own = self._key(self._node, boot)
        self._keys: dict[tuple[bytes, int], ChaCha20Poly1305] = {}
        self._windows: dict[tuple[bytes, int, bytes], _Window] = {}

    @property
    def overhead_bytes(self) -> int:
        """How many bytes a sealed packet is longer."""
        return 2 + len(self._node) + _TAIL.size + _TAG_BYTES

    def seal(self, plain: bytes) -> bytes:
        """Return `plain` sealed; no two calls give the same bytes."""
        self._counter += 1
        tail = _TAIL.pack(self._boot, self._salt, self._counter)
        head = b"S" + bytes([len(self._node)]) + self._node + tail
        return head + self._own.encrypt(tail[8:], plain, head + self._label)

    def open(self, data: bytes) -> tuple[tuple[str, int], bytes]:
        """Return who sealed `data`, as id and boot, with what was sealed.

        Raises:
            RemoteProtocolError: not sealed, sealed with another secret or label, or seen before.
        """
        if len(data) < 2 or data[:1] != b"S":
            raise RemoteProtocolError(NOT_SEALED)
        split = 2 + data[1]
        head, node = data[: split + _TAIL.size], data[2:split]
        if len(data) < len(head) + _TAG_BYTES or len(head) != split + _TAIL.size:
            raise RemoteProtocolError(WRONG_SEAL)
        boot, salt, counter = _TAIL.unpack_from(head, split)
        try:
            nonce, ciphertext = head[split + 8 :], data[len(head) :]
            plain = self._key_of(node, boot).decrypt(nonce, ciphertext, head + self._label)
            sender = (node.decode(), boot)
        except (InvalidTag, UnicodeDecodeError) as error:
            raise RemoteProtocolError(WRONG_SEAL) from error
        if not self._window_of(node, boot, salt).admit(counter):
            raise RemoteProtocolError(REPLAYED)
        return sender, plain

    def _key(self, node: bytes, boot: int) -> ChaCha20Poly1305:
        info = node + b"/" + str(boot).encode()
        hkdf = HKDF(algorithm=SHA256(), length=32, salt=b"mesh gossip 1", info=info)
        return ChaCha20Poly1305(hkdf.derive(self._secret))

    def _key_of(self, node: bytes, boot: int) -> ChaCha20Poly1305:
        key = self._keys.get((node, boot))
        if key is None:
            key = self._key(node, boot)
            if len(self._keys) >= SENDERS_MAX:
                self._keys.pop(next(iter(self._keys)))
            self._keys[node, boot] = key
        return key

    def _window_of(self, node: bytes, boot: int, salt: bytes) -> _Window:
        window = self._windows.get((node, boot, salt))
        if window is None:
            if len(self._windows) >= SENDERS_MAX:
                self._windows.pop(next(iter(self._windows)))
            window = self._windows[node, boot, salt] = _Window()
        return window
