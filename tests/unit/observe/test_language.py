"""What engines count gets names for the metrics; roles without one are passed over."""

from __future__ import annotations

from mesh.observe import language

ENGINE = {
    "prompt_tokens": 70,
    "prefix_tokens": 30,
    "answer_tokens": 9,
    "prefix_hits": 3,
    "prefix_copies": 1,
    "prefix_evictions": 2,
    "kv_blocks": 16,
    "kv_blocks_used": 5,
    "kv_blocks_warm": 4,
    "running": 2,
    "waiting": 6,
}
ROLES = {"talk": {"engine": ENGINE}, "embed": {"total_items": 5}, "later": {"state": "loading"}}


def test_each_count_gets_its_label():
    assert dict(language.tokens(ROLES)) == {
        ("talk", "read"): 70,
        ("talk", "known"): 30,
        ("talk", "said"): 9,
    }
    assert dict(language.prefixes(ROLES)) == {
        ("talk", "hit"): 3,
        ("talk", "copy"): 1,
        ("talk", "eviction"): 2,
    }
    assert dict(language.answers(ROLES)) == {("talk", "running"): 2, ("talk", "waiting"): 6}


def test_shares_of_the_memory_add_up():
    found = dict(language.memory(ROLES))
    assert found == {("talk", "held"): 0.3125, ("talk", "warm"): 0.25, ("talk", "free"): 0.4375}
