"""A scheduler on a clock that the test moves: its model, sampler and pace take a known time of the clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.checkpoints.tokenizer import ByteTokenizer, encode_bytes
from engine.decoder.model import Model
from engine.decoder.sampler import TokenSampler
from engine.decoder.weights import Array, ModelConfig, create_seeded_weights
from engine.serving.pace import Pace
from engine.serving.request_stream import GenerationRequest
from engine.serving.scheduler import BatchScheduler
from engine.serving.transcript import Transcript

TINY = ModelConfig(vocab=257, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=48)
CONTEXT = 512
CHUNK_SECONDS, PASS_SECONDS, SAMPLE_SECONDS = 0.020, 0.010, 0.001


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TimedModel(Model):
    """A model whose passes advance the clock by a known time."""

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
    """A greedy sampler that advances the clock by SAMPLE_SECONDS."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(0.0, None)
        self.clock = clock

    def __call__(self, logits: Array) -> int:
        """Returns the likeliest token."""
        self.clock.now += SAMPLE_SECONDS
        return super().__call__(logits)


class TimedPace(Pace):
    """A pace whose rests advance the clock."""

    def _sleep(self, seconds: float) -> None:
        assert isinstance(self._clock, Clock)
        self._clock.now += max(seconds, 1e-6)  # less would not advance a clock at 1,000


class FakeClient:
    """A client that can leave, with its request."""

    def __init__(self, clock: Clock, prompt: str, max_tokens: int, *stops: str) -> None:
        self.has_left = False
        transcript = Transcript(ByteTokenizer().create_decoder(), stops)
        self.request = GenerationRequest(
            tuple(encode_bytes(prompt)), max_tokens, TimedSampler(clock), transcript, lambda: self.has_left
        )

    @property
    def generated_count(self) -> int:
        """Number of tokens so far."""
        return self.request.generated_count

    def read_text(self) -> str:
        """Returns the whole answer, once it is complete."""
        return "".join(piece.text for piece in self.request.iter_pieces())


def build_scheduler(slots: int, max_waiting: int = 8) -> tuple[BatchScheduler, Clock]:
    """Builds a scheduler whose steps the test calls."""
    clock = Clock()
    return BatchScheduler(TimedModel(clock, slots), TimedPace(clock), clock, max_waiting), clock


def submit(scheduler: BatchScheduler, clock: Clock, prompt: str, max_tokens: int, *stops: str) -> FakeClient:
    """Puts a request into the queue; returns its client."""
    client = FakeClient(clock, prompt, max_tokens, *stops)
    scheduler.submit(client.request)
    return client


def finish(scheduler: BatchScheduler) -> int:
    """Steps until no request is left; returns the number of steps."""
    steps = 0
    while not scheduler.wait_until_idle(0):
        scheduler.step()
        steps += 1
        assert steps < 10_000
    return steps
