"""Requests that share a model, moved on step by step on a clock that passes when told."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from engine.checkpoints.tokenizer import ByteTokenizer, encode_bytes
from engine.decoder.model import PREFILL_CHUNK, Model
from engine.decoder.sampler import TokenSampler
from engine.decoder.weights import Array, ModelConfig, create_seeded_weights
from engine.serving.pace import Pace
from engine.serving.request_stream import GenerationFailedError, GenerationRequest, Piece, StoppedError
from engine.serving.scheduler import CLIENT_CHECK_INTERVAL, BatchScheduler, ClosingError, QueueFullError
from engine.serving.transcript import Transcript

TINY = ModelConfig(vocab=257, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=48)
CONTEXT = 512
CHUNK_SECONDS, PASS_SECONDS, SAMPLE_SECONDS = 0.020, 0.010, 0.001


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TimedModel(Model):
    """A model whose passes take a known time of the clock."""

    def __init__(self, clock: Clock, slots: int) -> None:
        super().__init__(create_seeded_weights(TINY, seed=7), CONTEXT, slots)
        self.clock = clock
        self.passes: list[tuple[int, ...]] = []  # the slots of each decode pass

    def prefill(self, tokens: Sequence[int], slot: int = 0, start: int = 0) -> Iterator[int]:
        """Each chunk takes CHUNK_SECONDS."""
        for done in super().prefill(tokens, slot, start):
            self.clock.now += CHUNK_SECONDS
            yield done

    def decode(self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]) -> Array:
        """Each pass takes PASS_SECONDS."""
        self.clock.now += PASS_SECONDS
        self.passes.append(tuple(slots))
        return super().decode(tokens, slots, positions)


class TimedSampler(TokenSampler):
    """A greedy sampler that takes SAMPLE_SECONDS of the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(0.0, None)
        self.clock = clock

    def __call__(self, logits: Array) -> int:
        """The likeliest token."""
        self.clock.now += SAMPLE_SECONDS
        return super().__call__(logits)


class TimedPace(Pace):
    """Rests on the clock."""

    def _sleep(self, seconds: float) -> None:
        assert isinstance(self._clock, Clock)
        self._clock.now += max(seconds, 1e-6)  # less would not move a clock that stands at 1,000


class Asker:
    """A client that can leave."""

    def __init__(self, clock: Clock, prompt: str, most: int, *stops: str) -> None:
        self.left = False
        transcript = Transcript(ByteTokenizer().create_decoder(), stops)
        self.request = GenerationRequest(
            tuple(encode_bytes(prompt)), most, TimedSampler(clock), transcript, lambda: self.left
        )

    @property
    def made(self) -> int:
        """Tokens so far."""
        return self.request.generated_count

    def text(self) -> str:
        """The whole answer, once it is made."""
        return "".join(piece.text for piece in self.request.iter_pieces())


def batch_of(slots: int, most_waiting: int = 8) -> tuple[BatchScheduler, Clock]:
    """A batch that is stepped by hand."""
    clock = Clock()
    return BatchScheduler(TimedModel(clock, slots), TimedPace(clock), clock, most_waiting), clock


def submitted(batch: BatchScheduler, clock: Clock, prompt: str, most: int, *stops: str) -> Asker:
    """A request in the queue."""
    asker = Asker(clock, prompt, most, *stops)
    batch.submit(asker.request)
    return asker


def finish(batch: BatchScheduler) -> int:
    """Steps until nothing is left; how many."""
    steps = 0
    while not batch.wait_until_idle(0):
        batch.step()
        steps += 1
        assert steps < 10_000
    return steps


def test_one_pass_serves_all() -> None:
    """Requests that run at once get one token each from each pass."""
    batch, clock = batch_of(slots=3)
    askers = [submitted(batch, clock, "a", 5) for _ in range(3)]
    steps = finish(batch)

    assert [asker.made for asker in askers] == [5, 5, 5]
    assert steps <= 8  # five tokens, and up to three prompts before them
    assert batch.counters.work.generated_tokens == 15


def test_together_is_as_alone() -> None:
    """What a request is answered does not depend on what runs beside it."""
    prompts = ["alone", "a longer prompt than the others", "c"]
    alone = []
    for prompt in prompts:
        batch, clock = batch_of(slots=1)
        asker = submitted(batch, clock, prompt, 30)
        finish(batch)
        alone.append(asker.text())
    batch, clock = batch_of(slots=3)
    askers = [submitted(batch, clock, prompt, 30) for prompt in prompts]
    finish(batch)

    assert [asker.text() for asker in askers] == alone


def test_a_request_joins_between_two_steps() -> None:
    """A new request does not wait for those that run to end."""
    batch, clock = batch_of(slots=2)
    first = submitted(batch, clock, "a", 20)
    for _ in range(5):
        batch.step()
    second = submitted(batch, clock, "b", 3)
    for _ in range(5):
        batch.step()

    assert second.made == 3
    assert 0 < first.made < 20


def test_a_long_prompt_does_not_stall_the_others() -> None:
    """While a prompt of many chunks is prefilled, every chunk is followed by a token for the request that runs."""
    batch, clock = batch_of(slots=2)
    runs = submitted(batch, clock, "a", 100)
    batch.step()
    batch.step()
    before = runs.made
    long = submitted(batch, clock, "x" * (8 * PREFILL_CHUNK), 1)
    steps = 0
    while long.made == 0:
        batch.step()
        steps += 1

    assert steps == 8
    assert runs.made - before == 8


def test_prompts_are_worked_on_in_order() -> None:
    """The prompt that came first is prefilled first, so that it is not slowed by those after it."""
    batch, clock = batch_of(slots=2)
    first = submitted(batch, clock, "x" * (4 * PREFILL_CHUNK), 1)
    second = submitted(batch, clock, "y" * PREFILL_CHUNK, 1)
    while first.made == 0:
        batch.step()

    assert second.made == 0


def test_who_waits_gets_the_slot_that_becomes_free() -> None:
    """With more requests than slots they are served in the order of their coming, and none is lost."""
    batch, clock = batch_of(slots=2)
    askers = [submitted(batch, clock, "a", most) for most in (3, 9, 2, 2)]
    batch.step()

    assert (batch.running_count, batch.waiting_count) == (2, 2)

    finish(batch)

    assert [asker.made for asker in askers] == [3, 9, 2, 2]
    assert isinstance(batch.model, TimedModel)
    assert set(batch.model.passes[-1]) == {1}  # the long one kept its slot; the other slot served three


def test_slot_of_a_client_that_left_is_free_within_one_step() -> None:
    """The next step after a client left works for who waited, and not for it."""
    batch, clock = batch_of(slots=1)
    leaver = submitted(batch, clock, "a", 100)
    for _ in range(4):
        batch.step()
    made, leaver.left = leaver.made, True
    heir = submitted(batch, clock, "b", 1)
    batch.step()

    assert (leaver.made, heir.made) == (made, 1)
    assert batch.counters.finish_counts["cancelled"] == 1
    with pytest.raises(StoppedError):
        leaver.text()


def test_cancelled_is_as_gone() -> None:
    """A request whose thread failed to write is given up, whatever its connection looks like."""
    batch, clock = batch_of(slots=1)
    asker = submitted(batch, clock, "a", 100)
    batch.step()
    asker.request.cancel()
    batch.step()

    assert batch.running_count == 0


def test_who_waits_and_leaves_is_looked_for() -> None:
    """A client that leaves the queue makes room in it although no slot becomes free."""
    batch, clock = batch_of(slots=1, most_waiting=1)
    submitted(batch, clock, "a", 500)
    waits = submitted(batch, clock, "b", 1)
    batch.step()
    waits.left = True
    clock.now += CLIENT_CHECK_INTERVAL
    batch.step()

    assert batch.waiting_count == 0


def test_full_queue_says_when_to_come_back() -> None:
    """The time is what the queue will probably take: the mean of what was answered, for those that wait."""
    batch, clock = batch_of(slots=2, most_waiting=4)
    for _ in range(2):
        submitted(batch, clock, "a", 500)
    finish(batch)  # 500 passes of 10 ms and twice 500 ms of sampling: 6 s each
    for _ in range(6):
        submitted(batch, clock, "a", 10)
    with pytest.raises(QueueFullError) as before:
        submitted(batch, clock, "a", 1)
    batch.step()
    with pytest.raises(QueueFullError) as after:
        submitted(batch, clock, "a", 1)

    assert (before.value.retry_after, after.value.retry_after) == (19, 13)


def test_who_is_refused_has_no_place() -> None:
    """When the batch is closing, nothing new is taken and what was taken is finished."""
    batch, clock = batch_of(slots=1)
    taken = [submitted(batch, clock, "a", 3) for _ in range(2)]
    batch.stop_accepting()
    with pytest.raises(ClosingError):
        submitted(batch, clock, "a", 1)
    finish(batch)

    assert [asker.made for asker in taken] == [3, 3]


def test_stop_string_ends_and_frees() -> None:
    """The pass that completes a stop string is the last one made for the request."""
    batch, clock = batch_of(slots=1)
    whole = submitted(batch, clock, "a", 40)
    finish(batch)
    text = whole.text()
    stop = text[10:12]
    asker = submitted(batch, clock, "a", 40, stop)
    finish(batch)
    pieces = list(asker.request.iter_pieces())

    assert "".join(piece.text for piece in pieces) == text[: text.index(stop)]
    assert pieces[-1].finish_reason == "stop"
    assert len(pieces) == asker.made < 40


def test_stop_token_ends() -> None:
    """A token with which the model ends its answer ends it, and is not part of the text."""
    batch, clock = batch_of(slots=1)
    whole = submitted(batch, clock, "a", 10)
    finish(batch)
    pieces = list(whole.request.iter_pieces())
    batch, clock = batch_of(slots=1)
    model_says: list[int] = []

    class Spy(TimedSampler):
        def __call__(self, logits: Array) -> int:
            token = super().__call__(logits)
            model_says.append(token)
            return token

    plain = GenerationRequest(
        tuple(encode_bytes("a")), 10, Spy(clock), Transcript(ByteTokenizer().create_decoder(), ()), lambda: False
    )
    batch.submit(plain)
    finish(batch)
    stop = next(token for token in model_says[1:] if token != model_says[0])
    transcript = Transcript(ByteTokenizer().create_decoder(), ())
    request = GenerationRequest(tuple(encode_bytes("a")), 10, Spy(clock), transcript, lambda: False, frozenset({stop}))
    batch.submit(request)
    finish(batch)
    ended = list(request.iter_pieces())

    assert ended[-1].finish_reason == "stop"
    assert len(ended) == model_says.index(stop) + 1
    assert [piece.text for piece in ended[:-1]] == [piece.text for piece in pieces[: len(ended) - 1]]


def test_waits_are_observed() -> None:
    """Time to first token is from arrival on, queueing included; the time between tokens from token to token."""
    batch, clock = batch_of(slots=1)
    submitted(batch, clock, "x" * PREFILL_CHUNK, 3)
    submitted(batch, clock, "x" * PREFILL_CHUNK, 1)
    finish(batch)
    first = CHUNK_SECONDS + PASS_SECONDS + SAMPLE_SECONDS
    token = PASS_SECONDS + SAMPLE_SECONDS
    tally = batch.counters

    assert tally.first_token.total == pytest.approx(first + (first + 2 * token + first))
    assert tally.between_tokens.total == pytest.approx(2 * token)
    assert sum(tally.first_token.counts) == sum(tally.between_tokens.counts) == 2


def test_decode_seconds_are_of_each_request() -> None:
    """A pass for four counts four times, so tokens per decode second are those of one request, and not of all."""
    batch, clock = batch_of(slots=4)
    for _ in range(4):
        submitted(batch, clock, "", 10)
    finish(batch)
    work = batch.counters.work

    assert work.generated_tokens / work.decode_seconds == pytest.approx(1 / PASS_SECONDS)
    assert (work.passes, work.pass_seconds) == (10, pytest.approx(10 * PASS_SECONDS))


def test_every_second_has_its_phase() -> None:
    """The phases add up to the time since the start, and each has what was done in it."""
    batch, clock = batch_of(slots=1)
    began = clock.now
    batch.pace.set_lease(0.5, 3600)
    clock.now += 5
    submitted(batch, clock, "x" * PREFILL_CHUNK, 100)
    batch.start()

    assert batch.wait_until_idle(20)

    clock.now += 3
    phases = batch.counters.get_phase_seconds()

    assert sum(phases.values()) == pytest.approx(clock.now - began)
    assert phases["prefill"] == pytest.approx(CHUNK_SECONDS)
    assert phases["decode"] == pytest.approx(100 * PASS_SECONDS)
    assert phases["sampling"] == pytest.approx(100 * SAMPLE_SECONDS)
    assert phases["paced"] == pytest.approx(1.12, abs=0.15)  # all but the last burst and the credit
    assert phases["idle"] == pytest.approx(8, abs=0.2)
    assert batch.stop(10)


@pytest.mark.parametrize("duty", [0.1, 0.25, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("requests", [1, 4])
def test_tokens_per_second_follow_duty(duty: float, requests: int) -> None:
    """Inside long streams, one or several, tokens per second are duty times those at duty 1, within 2 %."""
    speeds = []
    for held in (1.0, duty):
        batch, clock = batch_of(slots=requests)
        batch.pace.set_lease(held, 3600)
        began = clock.now
        for _ in range(requests):
            submitted(batch, clock, "x" * PREFILL_CHUNK, 400)
        batch.start()

        assert batch.wait_until_idle(50)

        speeds.append(batch.counters.work.generated_tokens / (clock.now - began))
        batch.stop(10)

    assert speeds[1] / speeds[0] == pytest.approx(duty, rel=0.02)


def test_a_fault_is_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    """What goes wrong in a pass fails the requests in it with a reason, and the next one is served."""
    batch, clock = batch_of(slots=2)

    def broken(*_: Any) -> Array:
        raise MemoryError("no more")

    good, batch.model.decode = batch.model.decode, broken  # type: ignore[method-assign]  # the fault under test
    askers = [submitted(batch, clock, "a", 5) for _ in range(2)]
    batch.start()
    for asker in askers:
        with pytest.raises(GenerationFailedError, match="MemoryError"):
            asker.text()
    batch.model.decode = good  # type: ignore[method-assign]  # and its end
    after = submitted(batch, clock, "a", 5)

    assert len(list(after.request.iter_pieces())) == 5
    assert batch.counters.finish_counts["error"] == 2
    assert "MemoryError: no more" in capsys.readouterr().err
    assert batch.stop(10)


def test_stop_ends_all() -> None:
    """Stopping ends those that run and those that wait, within a pass."""
    batch, clock = batch_of(slots=1)
    gate, entered = threading.Event(), threading.Event()
    decode = batch.model.decode

    def gated(*arguments: Any) -> Array:
        entered.set()
        gate.wait(20)
        return decode(*arguments)

    batch.model.decode = gated  # type: ignore[method-assign]  # a pass that lasts
    askers = [submitted(batch, clock, "a", 400) for _ in range(3)]
    batch.start()
    entered.wait(20)
    stopped = threading.Thread(target=batch.stop, args=(20,))
    stopped.start()
    while not batch.is_closing:
        pass
    gate.set()
    stopped.join(20)

    assert (batch.running_count, batch.waiting_count) == (0, 0)
    assert askers[0].made <= 1
    for asker in askers:
        with pytest.raises(StoppedError):
            asker.text()


def test_cache_usage_is_of_all_slots() -> None:
    """The share counts the tokens in the cache against all slots, and is 0 when nothing runs."""
    batch, clock = batch_of(slots=2)
    submitted(batch, clock, "x" * (PREFILL_CHUNK - 1), 10)
    batch.step()

    assert batch.cache_usage == PREFILL_CHUNK / (2 * CONTEXT)

    finish(batch)

    assert batch.cache_usage == 0


def test_pieces_end_with_their_reason() -> None:
    """There is one piece for each token, and only the last tells why it is the last."""
    batch, clock = batch_of(slots=1)
    asker = submitted(batch, clock, "a", 4)
    finish(batch)
    pieces: list[Piece] = list(asker.request.iter_pieces())

    assert [piece.finish_reason for piece in pieces] == [None, None, None, "length"]
