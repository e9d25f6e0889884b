"""llama.cpp with its layers on RPC servers, by llama-cpp-python's libraries; nothing of the mesh.

Shell. `serve ENDPOINT THREADS` is one server, of the processor here; anything else is the
contestant of `bench.workers`: it starts the servers, lets llama.cpp place the layers on them,
and measures as the whole model is measured.

    python -m bench.contestants.llm_llamacpp_rpc MODEL THREADS ENDPOINT...
"""

from __future__ import annotations

import ctypes
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp as llama

from bench.contestants.llm_llamacpp import Model, measuring
from bench.workers import answer

FOLDER = Path(llama.__file__).parent / "lib"
CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
READY_S = 20.0  # for the servers to listen
ALL_LAYERS = 999  # more than any model has


def _library(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(FOLDER / f"lib{name}.so"))


def _pointer(function: Any, *arguments: Any) -> ctypes.c_void_p:
    function.restype = ctypes.c_void_p
    return ctypes.c_void_p(function(*arguments))


def serve(endpoint: str, threads: int) -> None:
    """Compute for whoever connects, until killed."""
    llama.llama_backend_init()
    device = _pointer(_library("ggml").ggml_backend_dev_by_type, CPU)
    devices = (ctypes.c_void_p * 1)(device)
    start = _library("ggml-rpc").ggml_backend_rpc_start_server
    start.restype = None
    count = ctypes.c_size_t
    start(endpoint.encode(), None, count(threads), count(1), devices)


def devices_of(endpoints: list[str]) -> Any:
    """Return the servers' devices, as a model's parameters want them: ended by a null."""
    base = _library("ggml-base")
    get = base.ggml_backend_reg_dev_get
    add = _library("ggml-rpc").ggml_backend_rpc_add_server
    found = []
    for endpoint in endpoints:
        registry = _pointer(add, endpoint.encode())
        if not registry:
            raise RuntimeError(f"no server at {endpoint}")
        found.append(_pointer(get, registry, ctypes.c_size_t(0)))
    return (ctypes.c_void_p * (len(found) + 1))(*found, None)


def open_model(path: str, threads: int, endpoints: list[str]) -> Model:
    """Load the model with all layers on the servers."""
    llama.llama_backend_init()
    wishes = llama.llama_model_default_params()
    devices = devices_of(endpoints)
    wishes.devices = ctypes.addressof(devices)
    wishes.n_gpu_layers = ALL_LAYERS
    return Model(path, threads, wishes)


def start(endpoints: list[str], threads: int) -> list[subprocess.Popen[bytes]]:
    """Start a server for each endpoint; return when all listen."""
    command = [sys.executable, "-m", "bench.contestants.llm_llamacpp_rpc", "serve"]
    servers = [
        # Their words go to the log: standard output is for answers.
        subprocess.Popen([*command, each, str(threads)], stdout=sys.stderr)
        for each in endpoints
    ]
    until_s = time.monotonic() + READY_S
    for endpoint in endpoints:
        host, port = endpoint.split(":")
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.05)
    return servers


def main() -> None:
    """Serve one part, or measure the whole."""
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
        return
    path, threads, *endpoints = sys.argv[1:]
    servers = start(endpoints, int(threads))
    try:
        answer(measuring(open_model(path, int(threads), endpoints)))
    finally:
        for server in servers:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
