"""
`python -m engine`: makes the model, serves it, and prints one line of JSON with its URL when it is ready.

Standard output has that line only; progress goes to standard error. SIGTERM and SIGINT end it at once with status 0.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from engine.sizing import automatic_size, available_memory, last_level_cache, parse_size

if TYPE_CHECKING:
    from engine.server import Server

TOKEN_VARIABLE = "STEADYTOK_ENGINE_TOKEN"
LAST_PASS = 2.0  # seconds; a pass takes milliseconds, and an exit in the middle of BLAS may crash


def main(arguments: list[str] | None = None) -> int:
    """Runs until it is told to stop; 2 where it cannot start, with one sentence on standard error."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    options = _parser().parse_args(arguments)
    try:
        server = _build(options)
    except (OSError, ValueError, MemoryError) as error:
        _say(f"cannot start: {error}")
        return 2
    return _serve(server, options)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="engine", description="The reference engine of steadytok.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: any free one (default)")
    parser.add_argument("--size", default="auto", help="bytes of weights such as 64MiB, or auto (default)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default %(default)s)")
    parser.add_argument("--context", type=int, default=1024, help="tokens of prompt and answer (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="BLAS threads (default 1: one core)")
    parser.add_argument("--nice", type=int, default=10, help="niceness added (default %(default)s: it gives way)")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when standard input closes")
    parser.add_argument("--token-file", help=f"file with the token for PUT /pace (else ${TOKEN_VARIABLE})")
    return parser


def _build(options: argparse.Namespace) -> Server:
    _check(options)
    token = _token(options.token_file)
    _give_way(options.nice)
    # BLAS reads these once, when NumPy is imported: hence the imports below.
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    from engine.generation import Generation
    from engine.model import Model, memory_of
    from engine.pace import Pace
    from engine.server import Server, is_loopback
    from engine.tokenizer import VOCAB
    from engine.weights import config_of_size, seeded_weights

    size, at_most = _size(options.size)
    config = config_of_size(size, VOCAB, at_most=at_most)
    memory = memory_of(config, options.context)
    _say(
        f"memory: weights {_mebibytes(memory.weights)}, KV cache {_mebibytes(memory.kv_cache)}, scratch "
        f"{_mebibytes(memory.scratch)}, together {_mebibytes(memory.total)}; Python and NumPy take about 35 MiB more"
    )
    _check_fits(memory.total)
    if not is_loopback(options.host):
        _say(f"listening on {options.host}: others than this machine can use this engine")
    started = time.perf_counter()
    model = Model(seeded_weights(config, options.seed), options.context)
    _say(f"{config.layers} layers of width {config.dim} made in {time.perf_counter() - started:.2f} s")
    generation = Generation(model, Pace(time.monotonic), time.perf_counter)
    name = f"seeded-{memory.weights / (1 << 20):.0f}MiB"
    return Server((options.host, options.port), generation, name, options.threads, token)


def _serve(server: Server, options: argparse.Namespace) -> int:
    # Looking whether to stop twice a second would wake an idle machine for nothing: the process just ends.
    threading.Thread(target=server.serve_forever, args=(3600.0,), daemon=True).start()
    if options.until_stdin_closes:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    model = server.generation.model
    ready = {
        "url": server.url,
        "model": server.model_name,
        "weights_bytes": model.config.weights_bytes,
        "context": model.context,
        "threads": options.threads,
        "pid": os.getpid(),
    }
    try:
        print(json.dumps(ready), flush=True)  # noqa: T201  the one line that the caller waits for
        threading.Event().wait()
    finally:
        if not server.generation.stop(LAST_PASS):
            os._exit(0)
    return 0


def _end_with_stdin() -> None:
    # The caller holds the other end: however it dies, the kernel closes it, and no engine is left behind.
    while os.read(sys.stdin.fileno(), 1 << 12):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _check(options: argparse.Namespace) -> None:
    for name, least, most in (("port", 0, 65535), ("context", 2, 1 << 17), ("threads", 1, 1024), ("nice", 0, 19)):
        if not least <= getattr(options, name) <= most:
            raise ValueError(f"--{name} must be from {least} to {most}, not {getattr(options, name)}")
    if options.seed < 0:
        raise ValueError(f"--seed must not be negative, and is {options.seed}")


def _size(text: str) -> tuple[int, bool]:
    if text != "auto":
        return parse_size(text), False
    cache = last_level_cache()
    size, cut = automatic_size(cache, available_memory())
    if cut:
        _say(f"weights of {_mebibytes(size)} only, to spare memory: tokens/s may follow the cache, not the memory")
    elif cache is None:
        _say("the size of the last-level cache is not known: 32 MiB is taken for it")
    return size, cut


def _check_fits(total: int) -> None:
    available = available_memory()
    if available is not None and total > available:
        raise ValueError(
            f"{_mebibytes(total)} are needed and {_mebibytes(available)} are available: choose a smaller --size"
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


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _say(sentence: str) -> None:
    print(f"engine: {sentence}", file=sys.stderr, flush=True)  # noqa: T201  progress is for people


if __name__ == "__main__":
    sys.exit(main())
