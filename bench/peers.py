"""Installs the peers that `bench` compares with, each into an environment of its own.

    python -m bench.peers [mosec litserve bentoml ray embedding llamacpp llamacpp-rpc]

Shell: pip only, pinned, into `~/.cache/mesh/bench/NAME`. A peer that cannot be installed is
named and left out; the benches say so too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv

from bench.report import progress
from bench.servers import ENVIRONMENTS

PINNED = {
    "mosec": ("mosec==0.9.8", "orjson==3.13.0"),
    "litserve": ("litserve==0.2.19",),
    "bentoml": ("bentoml==1.4.39",),
    "ray": ("ray[serve]==2.60.0",),
    # Another torch would bring gigabytes of GPU libraries.
    "embedding": ("sentence-transformers==6.2.0", "torch==2.13.0", "transformers==5.23.0"),
    # Comes as source: pip compiles it for the processor at hand, in a few minutes.
    "llamacpp": ("llama-cpp-python==0.3.36",),
    "llamacpp-rpc": ("llama-cpp-python==0.3.36",),
}
# What a build is told, beside what is always so; pip would otherwise take the wheel that it made
# for another environment.
BUILT = {"llamacpp-rpc": {"CMAKE_ARGS": "-DGGML_RPC=ON"}}
ALWAYS = ("numpy==2.4.6",)


def install(name: str) -> bool:
    """Make one environment; return whether it is complete."""
    folder = ENVIRONMENTS / name
    done = folder / "installed"
    wanted = "\n".join(PINNED[name] + ALWAYS)
    if done.exists() and done.read_text() == wanted:
        progress(f"{name}: installed already")
        return True
    done.unlink(missing_ok=True)
    progress(f"{name}: installing {', '.join(PINNED[name])} into {folder}")
    venv.create(folder, with_pip=True, clear=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-input"]
    environment = {**os.environ, **BUILT.get(name, {})}
    if name in BUILT:
        command.append("--no-cache-dir")
    found = subprocess.run([*command, *PINNED[name], *ALWAYS], check=False, env=environment)
    if found.returncode:
        progress(f"{name}: could not be installed")
        return False
    done.write_text(wanted)
    return True


def main() -> int:
    """Install those named, or all."""
    names = sys.argv[1:] or list(PINNED)
    if unknown := set(names) - set(PINNED):
        progress(f"no peer {', '.join(unknown)}; there are {', '.join(PINNED)}")
        return 2
    failed = [name for name in names if not install(name)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
