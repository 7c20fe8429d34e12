"""
`python -m engine`: makes the model, serves it, and prints one line of JSON with its URL when it is ready.

Standard output has that line only; progress goes to standard error. How it ends: lifetime.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.lifetime import Patience, serve
from engine.placement import Node, Place, nodes, pin, place
from engine.sizing import (
    COMPILER,
    INTERPRETER,
    SHARE,
    automatic_size,
    available_memory,
    last_level_cache,
    mebibytes,
    parse_size,
)

if TYPE_CHECKING:
    from engine.checkpoint import Checkpoint
    from engine.server import Server

TOKEN_VARIABLE = "STEADYTOK_ENGINE_TOKEN"
SLOTS = 4  # each has a KV cache of its own
DRAIN = 8.0  # seconds; systemd waits 90 before it kills, Docker 10


def main(arguments: list[str] | None = None) -> int:
    """Runs until it is told to stop; 2 where it cannot start, with one sentence on standard error."""
    patience = Patience(DRAIN)
    patience.listen()
    options = _parser().parse_args(arguments)
    try:
        server = _build(options)
    except (OSError, ValueError, MemoryError) as error:
        _say(f"cannot start: {error}")
        return 2
    patience.seconds = options.drain
    serve(server, patience, _ready(server), until_stdin_closes=options.until_stdin_closes)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="engine", description="The reference engine of steadytok.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: any free one (default)")
    parser.add_argument(
        "--model", type=Path, help="folder as Hugging Face has them, or a .gguf file; else seeded weights"
    )
    parser.add_argument("--size", default="auto", help="bytes of weights such as 64MiB, or auto (default)")
    parser.add_argument(
        "--weights",
        choices=("float32", "int8"),
        default="float32",
        help="how matrices are kept (default %(default)s); int8 is less exact, smaller and faster",
    )
    parser.add_argument(
        "--most", type=float, help=f"share of its node's available memory to take at most (default {SHARE} with auto)"
    )
    parser.add_argument("--no-pin", action="store_true", help="leave the CPUs as they are, of several nodes perhaps")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default %(default)s)")
    parser.add_argument("--context", type=int, default=1024, help="tokens of prompt and answer (default %(default)s)")
    parser.add_argument("--slots", type=int, default=SLOTS, help="requests worked on at once (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="BLAS threads (default 1: one core)")
    parser.add_argument("--nice", type=int, default=10, help="niceness added (default %(default)s: it gives way)")
    parser.add_argument(
        "--drain", type=float, default=DRAIN, help="seconds that SIGTERM leaves to what runs (default %(default)s)"
    )
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input closes")
    parser.add_argument("--token-file", help=f"file with the token for PUT /pace (else ${TOKEN_VARIABLE})")
    return parser


def _build(options: argparse.Namespace) -> Server:
    _check(options)
    token = _token(options.token_file)
    _give_way(options.nice)
    found = _pinned(nodes(os.sched_getaffinity(0)), options.no_pin)
    # BLAS and Numba read these once, when they are imported: hence the imports below.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    # Threads that wait busily take the CPUs of BLAS', and of others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from engine.bandwidth import sgemv_bandwidth
    from engine.batch import Batch
    from engine.chat import template_of
    from engine.model import Model
    from engine.pace import Pace
    from engine.requests import Terms
    from engine.server import Served, Server, is_loopback

    checkpoint = _checkpoint(options, place(found))
    config = checkpoint.config
    if not is_loopback(options.host):
        _say(f"listening on {options.host}: others than this machine can use this engine")
    started = time.perf_counter()
    model = Model(checkpoint.load(), options.context, options.slots)
    _say(f"{config.layers} layers of width {config.dim} made in {time.perf_counter() - started:.2f} s")
    tokenizer = checkpoint.tokenizer
    served = Served(
        checkpoint.name,
        Batch(model, Pace(time.monotonic), time.monotonic),
        Terms(model.context, config.vocab, tokenizer, template_of(tokenizer)),
        options.threads,
        sgemv_bandwidth(model.weights.arrays()),
    )
    return Server((options.host, options.port), served, token)


def _pinned(found: list[Node], leave: bool) -> list[Node]:
    """The nodes that are left to run on."""
    try:
        node = None if leave else pin(found)
    except OSError as error:
        _say(f"cannot keep to one node: {error}; going on")
        return found
    if node is None:
        return found
    _say(
        f"keeping to node {node.number}, {len(node.cpus)} CPUs, which has most memory available "
        f"({mebibytes(node.available)}); --no-pin leaves the CPUs as they are"
    )
    return [node]


def _checkpoint(options: argparse.Namespace, where: Place) -> Checkpoint:
    """A model that may be as large as it is; ValueError where it may not."""
    from engine.checkpoint import open_checkpoint, seeded
    from engine.model import memory_of
    from engine.tokenizer import VOCAB
    from engine.weights import config_of_size

    int8 = bool(options.weights == "int8")
    around = INTERPRETER + int8 * COMPILER

    def footprint(size: int) -> int:
        model = memory_of(config_of_size(size, VOCAB, int8=int8), options.context, options.slots)
        return model.total + around

    if options.model is None:
        checkpoint = seeded(_size(options, where, footprint), options.seed, int8=int8)
    else:
        checkpoint = open_checkpoint(options.model)
        if checkpoint.trained_context is not None and options.context > checkpoint.trained_context:
            _say(
                f"{checkpoint.name} was trained with {checkpoint.trained_context} tokens: what comes after may be poor"
            )
    if int8:
        checkpoint = checkpoint.in_int8()
    memory = memory_of(checkpoint.config, options.context, options.slots)
    _say(
        f"memory: weights {mebibytes(memory.weights)}, KV cache {mebibytes(memory.kv_cache)}, scratch "
        f"{mebibytes(memory.scratch)}, Python and NumPy about {mebibytes(around)}, together "
        f"{mebibytes(memory.total + around)}"
    )
    _check_fits(memory.total + around, options.most, where)
    return checkpoint


def _ready(server: Server) -> str:
    model = server.served.batch.model
    fields = {
        "url": server.url,
        "model": server.served.name,
        "weights_bytes": model.config.weights_bytes,
        "context": model.context,
        "slots": model.slots,
        "threads": server.served.threads,
        "pid": os.getpid(),
    }
    return json.dumps(fields)


def _check(options: argparse.Namespace) -> None:
    for name, least, most in (
        ("port", 0, 65535),
        ("context", 2, 1 << 17),
        ("slots", 1, 64),
        ("threads", 1, 1024),
        ("nice", 0, 19),
    ):
        if not least <= getattr(options, name) <= most:
            raise ValueError(f"--{name} must be from {least} to {most}, not {getattr(options, name)}")
    if options.most is not None and not 0 < options.most <= 1:
        raise ValueError(f"--most must be more than 0 and at most 1, not {options.most:g}")
    if not 0 <= options.drain <= 3600:
        raise ValueError(f"--drain must be from 0 to 3600 seconds, not {options.drain:g}")
    if options.model is not None and options.size != "auto":
        raise ValueError("--size is for weights made from a seed: --model has its own size")
    if options.seed < 0:
        raise ValueError(f"--seed must not be negative, and is {options.seed}")


def _size(options: argparse.Namespace, where: Place, footprint: Callable[[int], int]) -> int:
    if options.size != "auto":
        return parse_size(options.size)
    cache = last_level_cache()
    share = SHARE if options.most is None else options.most
    room = None if where.available is None else int(where.available * share)
    size, cut = automatic_size(cache, room, footprint)
    if cut:
        _say(f"weights of {mebibytes(size)} only, to spare memory: tokens/s may follow the cache, not the memory")
    elif cache is None:
        _say("the size of the last-level cache is not known: 32 MiB is taken for it")
    return size


def _check_fits(total: int, most: float | None, where: Place) -> None:
    if most is None:
        most, where = 1.0, Place("this host", available_memory())
    if where.available is not None and total > where.available * most:
        share = "" if most == 1 else f"{100 * most:g} % of "
        raise ValueError(
            f"{mebibytes(total)} are needed, more than {share}the {mebibytes(where.available)} that {where.name} has "
            "available: choose a smaller --size or --context"
        )


def _token(path: str | None) -> str | None:
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    with open(path, encoding="ascii") as file:
        token = file.read(4096).strip()
    if not token or not token.isprintable():
        raise ValueError(f"{path} holds no token: expected one line of printable ASCII")
    return token


def _give_way(nice: int) -> None:
    """A canary gives its CPU and its memory up first."""
    try:
        os.nice(nice)
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError as error:
        _say(f"cannot give way to others: {error}; going on")


def _say(sentence: str) -> None:
    print(f"engine: {sentence}", file=sys.stderr, flush=True)  # noqa: T201  progress is for people


if __name__ == "__main__":
    sys.exit(main())
