"""
`python -m engine`: builds the model, serves it, and prints one line of JSON with its URL when it is ready.

Standard output has that line only; progress goes to standard error. The end is in serving/shutdown.py.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.memory.binding import Binding, bind_process, find_node_limit
from engine.memory.limits import check_fits
from engine.memory.numa_nodes import MemoryLimit
from engine.memory.numa_policy import NUMA_CHOICES
from engine.memory.sizing import (
    MEMORY_SHARE,
    choose_automatic_size,
    format_mebibytes,
    parse_size,
    read_last_level_cache,
)
from engine.serving.shutdown import GracePeriod, serve, wait_for_exit

if TYPE_CHECKING:
    from engine.checkpoints.checkpoint import Checkpoint
    from engine.decoder.weights import ModelConfig
    from engine.memory.budget import MemoryFootprint
    from engine.serving.server import EngineServer

TOKEN_VARIABLE = "STEADYTOK_ENGINE_TOKEN"
DEFAULT_SLOTS = 4  # each slot has its own KV cache
DEFAULT_DRAIN = 8.0  # seconds; systemd waits 90 before it kills, Docker 10


def main(arguments: list[str] | None = None) -> int:
    """Serves until a signal and returns 0; returns 2, with one sentence on standard error, if it cannot start."""
    grace = GracePeriod(DEFAULT_DRAIN)
    grace.install_handlers()
    options = _build_parser().parse_args(arguments)
    try:
        _check_options(options)
        binding = bind_process(options.numa, options.no_pin, _log)
        if binding.is_replicated:
            return _run_replicas(options, binding, sys.argv[1:] if arguments is None else arguments, grace)
        server = _build_server(options, binding)
    except (OSError, ValueError, MemoryError) as error:
        _log(f"cannot start: {error}")
        return 2
    grace.seconds = options.drain
    serve(server, grace, _format_ready(server), until_stdin_closes=options.until_stdin_closes)
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="engine", description="The reference engine of steadytok.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 picks a free one (default)")
    parser.add_argument("--model", type=Path, help="Hugging Face model folder or .gguf file (default: seeded weights)")
    parser.add_argument("--size", default="auto", help="bytes of weights such as 64MiB, or auto (default)")
    parser.add_argument(
        "--weights",
        choices=("float32", "int8"),
        default="float32",
        help="format of the matrices (default %(default)s); int8 is less exact, smaller and faster",
    )
    parser.add_argument(
        "--memory-share",
        "--most",
        type=float,
        metavar="SHARE",
        help=f"largest share of the node's available memory to use, from 0 to 1 (default {MEMORY_SHARE} with auto)",
    )
    parser.add_argument("--no-pin", action="store_true", help="do not restrict the CPUs to one node")
    parser.add_argument("--numa", help=f"{NUMA_CHOICES} (default: the CPUs of one node, memory near them)")
    parser.add_argument(
        "--lazy", action="store_true", help="allocate memory at first use, to reproduce late out-of-memory kills"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default %(default)s)")
    parser.add_argument(
        "--context", type=int, default=1024, help="tokens of prompt and answer together (default %(default)s)"
    )
    parser.add_argument(
        "--slots", type=int, default=DEFAULT_SLOTS, help="requests that run at once (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="BLAS threads (default 1: one core)")
    parser.add_argument("--nice", type=int, default=10, help="niceness to add (default %(default)s: yields the CPU)")
    parser.add_argument(
        "--drain",
        type=float,
        default=DEFAULT_DRAIN,
        help="seconds after SIGTERM to finish running requests (default %(default)s)",
    )
    parser.add_argument("--until-stdin-closes", action="store_true", help="exit when standard input closes")
    parser.add_argument("--token-file", help=f"file with the token for PUT /pace (default: ${TOKEN_VARIABLE})")
    return parser


def _build_server(options: argparse.Namespace, binding: Binding) -> EngineServer:
    token = _read_token(options.token_file)
    _lower_priority(options.nice)
    # BLAS and Numba read these variables once, at import; therefore the imports follow.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    # Threads that wait busily would take the CPUs of BLAS and of other programs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from engine.decoder.model import Model
    from engine.memory.bandwidth import measure_sgemv_bandwidth
    from engine.memory.budget import describe_growth, read_resident_bytes, trim_heap, warm_up
    from engine.memory.locality import Locality
    from engine.serving.chat_template import select_chat_template
    from engine.serving.pace import Pace
    from engine.serving.requests import ModelSpec
    from engine.serving.scheduler import BatchScheduler
    from engine.serving.server import EngineServer, ServedModel, is_loopback

    checkpoint, footprint = _open_checkpoint(options, binding)
    config = checkpoint.config
    if not is_loopback(options.host):
        _log(f"listening on {options.host}: other machines can use this engine")
    started, resident_before = time.perf_counter(), read_resident_bytes()
    weights = checkpoint.load()
    trim_heap()
    model = Model(weights, options.context, options.slots, lazy=options.lazy)
    if not options.lazy:
        warm_up(model)
    _log(f"{config.layers} layers of width {config.dim} loaded in {time.perf_counter() - started:.2f} s")
    locality = Locality(options.numa, model.weights.list_arrays(), binding.pin_threads())
    _log(describe_growth(footprint, resident_before, read_resident_bytes(), lazy=options.lazy))
    if binding.numa_option is not None:
        _log(locality.describe())
    tokenizer = checkpoint.tokenizer
    served_model = ServedModel(
        checkpoint.name,
        BatchScheduler(model, Pace(time.monotonic), time.monotonic),
        ModelSpec(model.context, config.vocab, tokenizer, select_chat_template(tokenizer)),
        options.threads,
        measure_sgemv_bandwidth(model.weights),
        locality,
    )
    return EngineServer((options.host, options.port), served_model, token)


def _run_replicas(options: argparse.Namespace, binding: Binding, arguments: list[str], grace: GracePeriod) -> int:
    """Runs one worker per node; argparse takes the last value of an option, so the overrides come last."""
    from engine.serving.replicas import Replicas

    token = _read_token(options.token_file)
    _lower_priority(options.nice)
    grace.seconds = options.drain
    checkpoint, _ = _open_checkpoint(options, binding, times=len(binding.nodes))
    overrides = ["--nice", "0"]  # a child inherits its niceness, and would add its own
    if options.model is None:  # one size for all workers, whatever memory their nodes have
        overrides += ["--size", f"{checkpoint.config.weights_bytes >> 10}KiB"]
    replicas = Replicas((options.host, options.port), binding.nodes, [*arguments, *overrides], _log, token)
    try:
        ready = {**replicas.start(), "pid": os.getpid()}
        wait_for_exit(json.dumps(ready), until_stdin_closes=options.until_stdin_closes)
    finally:
        replicas.stop(grace)
    return 0


def _open_checkpoint(
    options: argparse.Namespace, binding: Binding, times: int = 1
) -> tuple[Checkpoint, MemoryFootprint]:
    """Returns the checkpoint and its memory footprint; raises ValueError if `times` footprints exceed a limit."""
    from engine.checkpoints.checkpoint import create_seeded
    from engine.checkpoints.opening import open_checkpoint
    from engine.checkpoints.tokenizer import VOCAB
    from engine.decoder.weights import MIN_WEIGHTS_BYTES, make_config_of_size
    from engine.memory.budget import estimate_footprint

    int8 = bool(options.weights == "int8")

    def estimate(config: ModelConfig) -> MemoryFootprint:
        return estimate_footprint(config, options.context, options.slots, options.threads)

    if options.model is None:
        size = _choose_size(
            options,
            find_node_limit(binding),
            MIN_WEIGHTS_BYTES,
            lambda size: estimate(make_config_of_size(size, VOCAB, int8=int8)).total,
        )
        checkpoint = create_seeded(size, options.seed, int8=int8)
    else:
        checkpoint = open_checkpoint(options.model)
        if checkpoint.trained_context is not None and options.context > checkpoint.trained_context:
            _log(
                f"{checkpoint.name} was trained with {checkpoint.trained_context} tokens: text beyond them may be poor"
            )
    if int8:
        checkpoint = checkpoint.to_int8()
    footprint = estimate(checkpoint.config)
    limits = binding.read_memory_limits()
    _log(footprint.describe(options.slots, limits))
    if options.memory_share is not None:
        limits = [find_node_limit(binding), *limits]
    check_fits(footprint.total, limits, options.memory_share or 1.0, times=times)
    return checkpoint, footprint


def _format_ready(server: EngineServer) -> str:
    model = server.served_model.scheduler.model
    fields = {
        "url": server.url,
        "model": server.served_model.name,
        "weights_bytes": model.config.weights_bytes,
        "context": model.context,
        "slots": model.slots,
        "threads": server.served_model.threads,
        "pid": os.getpid(),
        "numa": server.served_model.locality.to_fields() if server.served_model.locality else None,
    }
    return json.dumps(fields)


def _check_options(options: argparse.Namespace) -> None:
    for name, minimum, maximum in (
        ("port", 0, 65535),
        ("context", 2, 1 << 17),
        ("slots", 1, 64),
        ("threads", 1, 1024),
        ("nice", 0, 19),
    ):
        if not minimum <= getattr(options, name) <= maximum:
            raise ValueError(f"--{name} must be from {minimum} to {maximum}, not {getattr(options, name)}")
    if options.memory_share is not None and not 0 < options.memory_share <= 1:
        raise ValueError(f"--memory-share must be more than 0 and at most 1, not {options.memory_share:g}")
    if not 0 <= options.drain <= 3600:
        raise ValueError(f"--drain must be from 0 to 3600 seconds, not {options.drain:g}")
    if options.model is not None and options.size != "auto":
        raise ValueError("--size is for weights made from a seed: --model has its own size")
    if options.seed < 0:
        raise ValueError(f"--seed must not be negative, not {options.seed}")


def _choose_size(options: argparse.Namespace, limit: MemoryLimit, minimum: int, estimate: Callable[[int], int]) -> int:
    if options.size != "auto":
        return parse_size(options.size)
    cache = read_last_level_cache()
    share = MEMORY_SHARE if options.memory_share is None else options.memory_share
    available = None if limit.available is None else int(limit.available * share)
    size, is_reduced = choose_automatic_size(cache, available, minimum, estimate)
    if is_reduced:
        _log(f"weights of {format_mebibytes(size)} only, to spare memory: tokens/s may depend on the cache instead")
    elif cache is None:
        _log("the size of the last-level cache is unknown: assuming 32 MiB")
    return size


def _read_token(path: str | None) -> str | None:
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    with open(path, encoding="ascii") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
            raise ValueError(f"{path}: others may read or write the token (mode {mode & 0o777:o}); chmod 640 or 600 it")
        token = file.read(4096).strip()
    if not token or not token.isprintable():
        raise ValueError(f"{path} holds no token: expected one line of printable ASCII")
    return token


def _lower_priority(nice: int) -> None:
    """Makes this process the first to yield the CPU and the first victim of the OOM killer."""
    try:
        os.nice(nice)
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError as error:
        _log(f"cannot lower the priority: {error}; continuing")


def _log(message: str) -> None:
    print(f"engine: {message}", file=sys.stderr, flush=True)  # noqa: T201  progress is for people


if __name__ == "__main__":
    sys.exit(main())
