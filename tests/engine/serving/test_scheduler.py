"""Requests that share a model: slots, queue, stops, faults and the end, stepped on a clock of the test."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from engine.checkpoints.tokenizer import ByteTokenizer, encode_bytes
from engine.decoder.model import PREFILL_CHUNK
from engine.decoder.weights import Array
from engine.serving.request_stream import GenerationFailedError, GenerationRequest, Piece, StoppedError
from engine.serving.scheduler import CLIENT_CHECK_INTERVAL, ClosingError
from engine.serving.transcript import Transcript
from tests.engine.timed_scheduler import (
    TimedModel,
    TimedSampler,
    build_scheduler,
    finish,
    submit,
)


def test_one_pass_serves_all() -> None:
    """Requests that run at once get one token each from each pass."""
    scheduler, clock = build_scheduler(slots=3)
    clients = [submit(scheduler, clock, "a", 5) for _ in range(3)]
    steps = finish(scheduler)

    assert [client.generated_count for client in clients] == [5, 5, 5]
    assert steps <= 8  # five tokens, and up to three prompts before them
    assert scheduler.counters.work.generated_tokens == 15


def test_together_is_as_alone() -> None:
    """The answer to a request does not depend on the requests beside it."""
    prompts = ["alone", "a longer prompt than the others", "c"]
    alone = []
    for prompt in prompts:
        scheduler, clock = build_scheduler(slots=1)
        client = submit(scheduler, clock, prompt, 30)
        finish(scheduler)
        alone.append(client.read_text())
    scheduler, clock = build_scheduler(slots=3)
    clients = [submit(scheduler, clock, prompt, 30) for prompt in prompts]
    finish(scheduler)

    assert [client.read_text() for client in clients] == alone


def test_a_request_joins_between_two_steps() -> None:
    """A new request does not wait for the end of running ones."""
    scheduler, clock = build_scheduler(slots=2)
    first = submit(scheduler, clock, "a", 20)
    for _ in range(5):
        scheduler.step()
    second = submit(scheduler, clock, "b", 3)
    for _ in range(5):
        scheduler.step()

    assert second.generated_count == 3
    assert 0 < first.generated_count < 20


def test_a_long_prompt_does_not_stall_the_others() -> None:
    """During the prefill of a long prompt, the running request gets a token after every chunk."""
    scheduler, clock = build_scheduler(slots=2)
    runs = submit(scheduler, clock, "a", 100)
    scheduler.step()
    scheduler.step()
    before = runs.generated_count
    long = submit(scheduler, clock, "x" * (8 * PREFILL_CHUNK), 1)
    steps = 0
    while long.generated_count == 0:
        scheduler.step()
        steps += 1

    assert steps == 8
    assert runs.generated_count - before == 8


def test_prompts_are_worked_on_in_order() -> None:
    """The oldest prompt is prefilled first, so that later ones do not slow it down."""
    scheduler, clock = build_scheduler(slots=2)
    first = submit(scheduler, clock, "x" * (4 * PREFILL_CHUNK), 1)
    second = submit(scheduler, clock, "y" * PREFILL_CHUNK, 1)
    while first.generated_count == 0:
        scheduler.step()

    assert second.generated_count == 0


def test_who_waits_gets_the_slot_that_becomes_free() -> None:
    """More requests than slots are served in order of arrival, and none is lost."""
    scheduler, clock = build_scheduler(slots=2)
    clients = [submit(scheduler, clock, "a", max_tokens) for max_tokens in (3, 9, 2, 2)]
    scheduler.step()

    assert (scheduler.running_count, scheduler.waiting_count) == (2, 2)

    finish(scheduler)

    assert [client.generated_count for client in clients] == [3, 9, 2, 2]
    assert isinstance(scheduler.model, TimedModel)
    assert set(scheduler.model.passes[-1]) == {1}  # the long request kept its slot; the other slot served three


def test_slot_of_a_client_that_left_is_free_within_one_step() -> None:
    """The step after a client has left serves the next waiting request instead."""
    scheduler, clock = build_scheduler(slots=1)
    leaver = submit(scheduler, clock, "a", 100)
    for _ in range(4):
        scheduler.step()
    generated, leaver.has_left = leaver.generated_count, True
    heir = submit(scheduler, clock, "b", 1)
    scheduler.step()

    assert (leaver.generated_count, heir.generated_count) == (generated, 1)
    assert scheduler.counters.finish_counts["cancelled"] == 1
    with pytest.raises(StoppedError):
        leaver.read_text()


def test_cancelled_is_as_gone() -> None:
    """A request whose thread failed to write is dropped, whatever the state of its connection."""
    scheduler, clock = build_scheduler(slots=1)
    client = submit(scheduler, clock, "a", 100)
    scheduler.step()
    client.request.cancel()
    scheduler.step()

    assert scheduler.running_count == 0


def test_who_waits_and_leaves_is_looked_for() -> None:
    """A client that leaves the queue makes room in it, although no slot becomes free."""
    scheduler, clock = build_scheduler(slots=1, max_waiting=1)
    submit(scheduler, clock, "a", 500)
    waits = submit(scheduler, clock, "b", 1)
    scheduler.step()
    waits.has_left = True
    clock.now += CLIENT_CHECK_INTERVAL
    scheduler.step()

    assert scheduler.waiting_count == 0


def test_who_is_refused_has_no_place() -> None:
    """A closing scheduler accepts no new requests and finishes the accepted ones."""
    scheduler, clock = build_scheduler(slots=1)
    accepted = [submit(scheduler, clock, "a", 3) for _ in range(2)]
    scheduler.stop_accepting()
    with pytest.raises(ClosingError):
        submit(scheduler, clock, "a", 1)
    finish(scheduler)

    assert [client.generated_count for client in accepted] == [3, 3]


def test_stop_string_ends_and_frees() -> None:
    """The pass that completes a stop string is the last pass of the request."""
    scheduler, clock = build_scheduler(slots=1)
    unstopped = submit(scheduler, clock, "a", 40)
    finish(scheduler)
    text = unstopped.read_text()
    stop = text[10:12]
    client = submit(scheduler, clock, "a", 40, stop)
    finish(scheduler)
    pieces = list(client.request.iter_pieces())

    assert "".join(piece.text for piece in pieces) == text[: text.index(stop)]
    assert pieces[-1].finish_reason == "stop"
    assert len(pieces) == client.generated_count < 40


def test_stop_token_ends() -> None:
    """A stop token ends the answer, and is not part of the text."""
    scheduler, clock = build_scheduler(slots=1)
    unstopped = submit(scheduler, clock, "a", 10)
    finish(scheduler)
    pieces = list(unstopped.request.iter_pieces())
    scheduler, clock = build_scheduler(slots=1)
    sampled: list[int] = []

    class Spy(TimedSampler):
        def __call__(self, logits: Array) -> int:
            token = super().__call__(logits)
            sampled.append(token)
            return token

    plain = GenerationRequest(
        tuple(encode_bytes("a")), 10, Spy(clock), Transcript(ByteTokenizer().create_decoder(), ()), lambda: False
    )
    scheduler.submit(plain)
    finish(scheduler)
    stop = next(token for token in sampled[1:] if token != sampled[0])
    transcript = Transcript(ByteTokenizer().create_decoder(), ())
    request = GenerationRequest(tuple(encode_bytes("a")), 10, Spy(clock), transcript, lambda: False, frozenset({stop}))
    scheduler.submit(request)
    finish(scheduler)
    stopped_pieces = list(request.iter_pieces())

    assert stopped_pieces[-1].finish_reason == "stop"
    assert len(stopped_pieces) == sampled.index(stop) + 1
    assert [piece.text for piece in stopped_pieces[:-1]] == [piece.text for piece in pieces[: len(stopped_pieces) - 1]]


def test_a_fault_is_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    """A fault in a pass fails its requests with a reason, and the next request is served."""
    scheduler, clock = build_scheduler(slots=2)

    def fail(*_: Any) -> Array:
        raise MemoryError("no more")

    good, scheduler.model.decode = scheduler.model.decode, fail  # type: ignore[method-assign]  # the fault under test
    clients = [submit(scheduler, clock, "a", 5) for _ in range(2)]
    scheduler.start()
    for client in clients:
        with pytest.raises(GenerationFailedError, match="MemoryError"):
            client.read_text()
    scheduler.model.decode = good  # type: ignore[method-assign]  # and its end
    after = submit(scheduler, clock, "a", 5)

    assert len(list(after.request.iter_pieces())) == 5
    assert scheduler.counters.finish_counts["error"] == 2
    assert "MemoryError: no more" in capsys.readouterr().err
    assert scheduler.stop(10)


def test_stop_ends_all() -> None:
    """Stopping ends running and waiting requests within a pass."""
    scheduler, clock = build_scheduler(slots=1)
    gate, entered = threading.Event(), threading.Event()
    decode = scheduler.model.decode

    def decode_at_gate(*arguments: Any) -> Array:
        entered.set()
        gate.wait(20)
        return decode(*arguments)

    scheduler.model.decode = decode_at_gate  # type: ignore[method-assign]  # a pass that lasts
    clients = [submit(scheduler, clock, "a", 400) for _ in range(3)]
    scheduler.start()
    entered.wait(20)
    stopped = threading.Thread(target=scheduler.stop, args=(20,))
    stopped.start()
    while not scheduler.is_closing:
        pass
    gate.set()
    stopped.join(20)

    assert (scheduler.running_count, scheduler.waiting_count) == (0, 0)
    assert clients[0].generated_count <= 1
    for client in clients:
        with pytest.raises(StoppedError):
            client.read_text()


def test_pieces_end_with_their_reason() -> None:
    """There is one piece per token, and only the last has a finish reason."""
    scheduler, clock = build_scheduler(slots=1)
    client = submit(scheduler, clock, "a", 4)
    finish(scheduler)
    pieces: list[Piece] = list(client.request.iter_pieces())

    assert [piece.finish_reason for piece in pieces] == [None, None, None, "length"]
