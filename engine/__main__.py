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

from engine.memory.binding import Site, nearest, settle
from engine.memory.limits import fitting
from engine.memory.numa_nodes import Place
from engine.memory.numa_policy import WORDS
from engine.memory.sizing import SHARE, automatic_size, last_level_cache, mebibytes, parse_size
from engine.serving.shutdown import Patience, serve, wait

if TYPE_CHECKING:
    from engine.checkpoints.checkpoint import Checkpoint
    from engine.decoder.weights import Config
    from engine.memory.budget import Need
    from engine.serving.server import Server

TOKEN_VARIABLE = "STEADYTOK_ENGINE_TOKEN"
SLOTS = 4  # each has a KV cache of its own
DRAIN = 8.0  # seconds; systemd waits 90 before it kills, Docker 10


def main(arguments: list[str] | None = None) -> int:
    """Runs until it is told to stop; 2 where it cannot start, with one sentence on standard error."""
    patience = Patience(DRAIN)
    patience.listen()
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        site = settle(options.numa, options.no_pin, _say)
        if site.replicates:
            return _replicate(options, site, sys.argv[1:] if arguments is None else arguments, patience)
        server = _build(options, site)
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
    parser.add_argument("--numa", help=f"{WORDS} (default: the processors of one node, memory near them)")
    parser.add_argument("--lazy", action="store_true", help="take memory when it is first used, as engines do that die")
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


def _build(options: argparse.Namespace, site: Site) -> Server:
    token = _token(options.token_file)
    _give_way(options.nice)
    # BLAS and Numba read these once, when they are imported: hence the imports below.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    # Threads that wait busily take the CPUs of BLAS', and of others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from engine.decoder.model import Model
    from engine.memory.bandwidth import sgemv_bandwidth
    from engine.memory.budget import give_back, resident, taken, warm_up
    from engine.memory.locality import Locality
    from engine.serving.chat import template_of
    from engine.serving.pace import Pace
    from engine.serving.requests import Terms
    from engine.serving.scheduler import Batch
    from engine.serving.server import Served, Server, is_loopback

    checkpoint, needed = _checkpoint(options, site)
    config = checkpoint.config
    if not is_loopback(options.host):
        _say(f"listening on {options.host}: others than this machine can use this engine")
    started, before = time.perf_counter(), resident()
    weights = checkpoint.load()
    give_back()
    model = Model(weights, options.context, options.slots, lazy=options.lazy)
    if not options.lazy:
        warm_up(model)
    _say(f"{config.layers} layers of width {config.dim} made in {time.perf_counter() - started:.2f} s")
    locality = Locality(options.numa, model.weights.arrays(), site.threads())
    _say(taken(needed, before, resident(), lazy=options.lazy))
    if site.wish is not None:
        _say(locality.sentence())
    tokenizer = checkpoint.tokenizer
    served = Served(
        checkpoint.name,
        Batch(model, Pace(time.monotonic), time.monotonic),
        Terms(model.context, config.vocab, tokenizer, template_of(tokenizer)),
        options.threads,
        sgemv_bandwidth(model.weights),
        locality,
    )
    return Server((options.host, options.port), served, token)


def _replicate(options: argparse.Namespace, site: Site, arguments: list[str], patience: Patience) -> int:
    """A worker for each node; of each option the last that is given counts, so ours come behind."""
    from engine.serving.replicas import Replicas

    _token(options.token_file)
    _give_way(options.nice)
    patience.seconds = options.drain
    checkpoint, _ = _checkpoint(options, site, times=len(site.nodes))
    own = ["--nice", "0"]  # niceness is inherited, and would add up
    if options.model is None:  # the same model for all, though their nodes may have different memory
        own += ["--size", f"{checkpoint.config.weights_bytes >> 10}KiB"]
    replicas = Replicas((options.host, options.port), site.nodes, [*arguments, *own], _say)
    try:
        ready = {**replicas.start(), "pid": os.getpid()}
        wait(json.dumps(ready), until_stdin_closes=options.until_stdin_closes)
    finally:
        replicas.stop(patience)
    return 0


def _checkpoint(options: argparse.Namespace, site: Site, times: int = 1) -> tuple[Checkpoint, Need]:
    """A model that may be as large as it is, and what it needs; ValueError where it may not, `times` over."""
    from engine.checkpoints.checkpoint import open_checkpoint, seeded
    from engine.checkpoints.tokenizer import VOCAB
    from engine.decoder.weights import config_of_size
    from engine.memory.budget import need

    int8 = bool(options.weights == "int8")

    def needed(config: Config) -> Need:
        return need(config, options.context, options.slots, options.threads)

    if options.model is None:
        size = _size(options, nearest(site), lambda size: needed(config_of_size(size, VOCAB, int8=int8)).total)
        checkpoint = seeded(size, options.seed, int8=int8)
    else:
        checkpoint = open_checkpoint(options.model)
        if checkpoint.trained_context is not None and options.context > checkpoint.trained_context:
            _say(
                f"{checkpoint.name} was trained with {checkpoint.trained_context} tokens: what comes after may be poor"
            )
    if int8:
        checkpoint = checkpoint.in_int8()
    sum_ = needed(checkpoint.config)
    places = site.places()
    _say(sum_.sentence(options.slots, places))
    if options.most is not None:
        places = [nearest(site), *places]
    fitting(sum_.total, places, options.most or 1.0, times=times)
    return checkpoint, sum_


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
        "numa": server.served.locality.fields() if server.served.locality else None,
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
