"""Says what the last run of each bench found, as rows of one table with the command beside each.

Shell: reads `bench/results/`. `python -m bench --readme` prints it; the README's table is a copy.
`python -m bench --write` puts it, and each bench's own section, into `docs/numbers.md`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from bench.report import middle, spread, table

Row = tuple[str, str]
"""What, and what was measured."""
HEAD = ("what", "measured", "command")
PAGE_HEAD = """<!-- Made from the last run of each bench by: python -m bench --write NAME … -->

# Numbers

What was measured, each with its command and its machine. All of it: `make bench`; the peers: \
`make bench-peers`. Medians; a range is least to most over the rounds."""
PEERS = {
    "mosec": "Mosec",
    "mosec-tuned": "Mosec with orjson and a window of 1 ms",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "ray": "Ray Serve",
}


def rows(results: Path, names: Collection[str] = ()) -> list[tuple[str, str, str]]:
    """Return a row per finding, of the benches that have been run; of those named, if any is."""
    found = []
    for name, read in READ.items():
        path = results / f"{name}.json"
        if not path.exists() or (names and name not in names):
            continue
        saved = json.loads(path.read_text())
        command = f"`{saved['command']}`"
        for what, measured in read(saved["data"]):
            found.append((what, measured, command))
            command = "the same run"
    return found


def readme(results: Path, names: Collection[str] = ()) -> str:
    """Return the table; its columns are text, so none is aligned to the right."""
    lines = table(HEAD, rows(results, names)).splitlines()
    return "\n".join([lines[0], "|---|---|---|", *lines[2:]])


def page(results: Path, names: Collection[str]) -> str:
    """Return the page of figures: the table, then the section of each bench that was run."""
    files = [results / f"{name}.md" for name in names]
    sections = [file.read_text().strip() for file in files if file.exists()]
    return "\n\n".join([PAGE_HEAD, readme(results, names), *sections]) + "\n"


def serving(data: Any) -> list[Row]:
    """Of the serving bench."""
    at = "32" if "32" in data["mesh"] else max(data["mesh"], key=int)
    rate = {name: middle([run["requests_per_s"] for run in by[at]]) for name, by in data.items()}
    ours = rate["mesh"]

    def against(name: str, title: str) -> str:
        return f"{title} {rate[name]:,.0f}, {_ratio(ours / rate[name])} times"

    others = [against("bare", "bare aiohttp with the same batching")] if "bare" in rate else []
    others += [against(name, title) for name, title in PEERS.items() if name in rate]
    found = [
        (
            f"a small NumPy model behind HTTP, {at} connections, requests/s",
            f"mesh {ours:,.0f} · the mesh against: {' · '.join(others)}",
        )
    ]
    if "1" in data["mesh"]:
        p50 = {name: middle([run["p50_ms"] for run in by["1"]]) for name, by in data.items()}
        shown = [
            f"{PEERS[name]} {p50[name]:.{2 if p50[name] < 1 else 1}f}"
            for name in PEERS
            if name in p50
        ]
        bare = [f"bare aiohttp {p50['bare']:.3f}"] if "bare" in p50 else []
        found.append(
            ("… one connection, p50 in ms", " · ".join([f"mesh {p50['mesh']:.3f}", *bare, *shown]))
        )
    if "mesh-remote" in rate:
        remote = f"{rate['mesh-remote']:,.0f} requests/s, {rate['mesh-remote'] / ours:.2f} of local"
        if "1" in data["mesh"]:
            remote += f"; one connection {p50['mesh-remote'] - p50['mesh']:.2f} ms above local"
        found.append(("… the model on another node, on the same two cores", remote))
    return found


def infer(data: Any) -> list[Row]:
    """Of the bench of 3 MB bodies: the loads of JSON in one row, the others in rows each."""
    from bench.infer import LOADS

    plain = [one for one in data if one["name"] in LOADS]
    others = [one for one in data if one["name"] not in LOADS]
    counts = ", ".join(str(LOADS[one["name"]]) for one in plain)
    found = []
    if plain:
        what = f"`/infer`, JSON of 3 MB, a gateway and three workers; {counts} at once"
        found.append((what, _inferred(plain)))
    return found + [(f"… {one['name']}", _inferred([one])) for one in others]


def _inferred(results: list[Any]) -> str:
    from bench.infer import batch_mean, cpu_ms

    failed, total = (
        sum(one[f"{name}_requests"] for one in results) for name in ("failed", "total")
    )
    rates = ", ".join(f"{one['throughput']:.0f}" for one in results)
    batches = ", ".join(f"{batch_mean(one):.1f}" for one in results)
    gateway = ", ".join(f"{cpu_ms(one, gateway=True):.1f}" for one in results)
    return (
        f"{failed} of {total:,} failed · {rates} requests/s · mean batch {batches} · "
        f"gateway {gateway} ms of processor a request"
    )


def answers(data: Any) -> list[Row]:
    """Of the answer pipeline: the best throughput of each side, and what is off against it."""
    busiest = max(one["concurrent"] for one in data)
    busy = {one["side"]: one for one in data if one["concurrent"] == busiest}
    sides = [
        name for name in ("monolithic, unbatched", "monolithic", "distributed") if name in busy
    ]
    memory = {
        name: " + ".join(f"{count / 1e6:.0f}" for count in busy[name]["memory_bytes"].values())
        for name in sides
    }
    shown = [
        f"{name} {busy[name]['throughput_median']:.2f} (p50 {busy[name]['latency']['median']:.0f} "
        f"ms, {memory[name]} MB)"
        for name in sides
    ]
    what = f"answers a second, {busiest} at once, on the same two cores"
    found = [(what, " · ".join(shown))]
    off = [
        f"{name} {one['of']:.2f}" for name, one in busy.items() if name not in sides and one["of"]
    ]
    if off:
        found.append(("… of that, with one thing changed", " · ".join(off)))
    return found


def search(data: Any) -> list[Row]:
    """Of the vector search bench."""
    recall, ms = data["recall"], data["ms"]
    ours, faiss = "mesh index", "FAISS alone, same settings"
    return [
        (
            "vector search, one query at a time",
            f"recall@10 {recall[ours]:.3f}, {middle(ms[ours]['1']):.3f} ms · FAISS alone with the "
            f"same settings {recall[faiss]:.3f}, {middle(ms[faiss]['1']):.3f} ms",
        )
    ]


def embedding(data: Any) -> list[Row]:
    """Of the embedding bench."""
    seconds, best = data["seconds"], data["best"]
    if "sentence-transformers" not in seconds:
        return [("embedding 2,000 passages, 2 threads", f"{middle(seconds['mesh']):.1f} s")]
    (ours, theirs) = (middle(seconds[name]) for name in ("mesh", "sentence-transformers"))
    return [
        (
            "embedding 2,000 passages, 2 threads",
            f"{ours:.1f} s · `sentence-transformers` at its best setting ({best['precision']}, "
            f"batches of {best['batch']}) {theirs:.1f} s: {theirs / ours:.2f} times; smallest "
            f"cosine with its float32 vectors {data['cosine_min']['mesh']:.5f}",
        )
    ]


def retrieval(data: Any) -> list[Row]:
    """Of the retrieval bench."""
    hits, ms = data["hits"], {name: middle(took) for name, took in data["rerank_ms"].items()}
    shown = ", ".join(f"{way} {count}" for way, count in hits.items())
    kept, anew = ms["the index's token vectors"], ms["computed anew"]
    return [
        (
            f"{data['questions']} questions in ordinary words: the right object is in the first 5",
            shown.replace("dense", "vectors"),
        ),
        (
            "… reranking 30 candidates, a question",
            f"{kept:.1f} ms with the token vectors of the index, {anew:.0f} ms without",
        ),
    ]


def llm(data: Any) -> list[Row]:
    """Of the decoding bench."""
    works = [work for work in data if work.endswith(("sequence", "sequences"))]
    counts = ", ".join(work.split()[0] for work in works)
    names = {"mesh": "mesh", "llamacpp": "llama.cpp, same file,", "transformers": "`transformers`"}
    shown = [
        f"{title} {', '.join(spread(data[work][name]) for work in works)}"
        for name, title in names.items()
        if name in data[works[0]]
    ]
    what = f"SmolLM2-135M, 4 bits, 2 threads, tokens/s at {counts} sequences"
    found = [(what, " · ".join(shown))]
    if "llamacpp" in data[works[0]]:
        ratios = {w: middle(each["mesh"]) / middle(each["llamacpp"]) for w, each in data.items()}
        rest = [f"{work} {ratios[work]:.2f}" for work in data if work not in works]
        decoding = ", ".join(f"{ratios[work]:.2f}" for work in works)
        found.append(
            ("… the mesh against llama.cpp", f"{'; '.join([f'{decoding} times', *rest])} times")
        )
    return found


def split(data: Any) -> list[Row]:
    """Of the bench of a split model."""
    rates = data["rates"]
    ratios = [middle(each["split"]) / middle(each["whole"]) for each in rates.values()]
    what = f"its layers split over three nodes on the same two cores: {', '.join(rates)}"
    return [(what, f"{', '.join(f'{ratio:.2f}' for ratio in ratios)} times the speed unsplit")]


def flood(data: Any) -> list[Row]:
    """Of the flood bench."""
    kept = [
        f"in a {lane} " + ", ".join(f"{middle(each[lane]['kept']):.2f}" for each in data.values())
        for lane in ("process", "thread")
    ]
    rate = middle(next(iter(data.values()))["process"]["requests_per_s"])
    return [
        (
            f"decoding beside {rate:,.0f} plain requests/s, {' and '.join(data)} sequences: "
            "speed kept",
            "; ".join(kept),
        )
    ]


READ: dict[str, Callable[[Any], list[Row]]] = {
    "serving": serving,
    "answers": answers,
    "infer": infer,
    "search": search,
    "embedding": embedding,
    "retrieval": retrieval,
    "llm": llm,
    "split": split,
    "flood": flood,
}


def _ratio(found: float) -> str:
    """Return it with as many digits as mean something."""
    return f"{found:.0f}" if found >= 10 else f"{found:.2f}" if found < 2 else f"{found:.1f}"
