"""A whole bench: finds or starts an engine, warms it up, runs the load, and reads the heat before and after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

from agent.config.schema import CANARY
from agent.enginebench import heat
from agent.enginebench.client import BenchRequest, Endpoint, EngineClient
from agent.enginebench.counters import EngineCounters
from agent.enginebench.heat import Heat
from agent.enginebench.load import LoadRun, run_load
from agent.enginebench.reference_engine import ReferenceEngine
from agent.enginebench.summary import compute_percentiles, list_speeds
from agent.engines.baseline import BaselineKey
from agent.sampling.plugins import Collector

OnProgress = Callable[[LoadRun], None]


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """The options of a bench; without `url` it starts the reference engine with `engine_arguments`."""

    url: str | None
    engine_arguments: Sequence[str]
    name: str
    model: str
    endpoint: Endpoint | None
    key: str
    request: BenchRequest
    requests: int
    concurrency: int
    warm_up: int
    timeout: float


@dataclass(slots=True)
class BenchResult:
    """The result of a bench; `engine_speeds` are the engine's own decode speeds, one for each request."""

    engine: EngineClient
    key: BaselineKey
    run: LoadRun
    before: Heat
    after: Heat
    engine_speeds: list[float] = field(default_factory=list)

    @property
    def baseline(self) -> float | None:
        """The engine's baseline in decode tokens per decode second: the 90th percentile, as for learnt baselines."""
        speed_percentiles = compute_percentiles(self.engine_speeds or list_speeds(self.run))
        return None if speed_percentiles is None else speed_percentiles.p90


async def measure(
    plan: BenchPlan, modules: Mapping[str, ModuleType], collectors: Sequence[Collector], on_progress: OnProgress
) -> BenchResult:
    """Runs a bench; raises EngineError when no request is answered."""
    reference_engine: ReferenceEngine | None = None
    try:
        url, model, key = plan.url, plan.model, BaselineKey(plan.name)
        if url is None:
            reference_engine = ReferenceEngine(plan.engine_arguments)
            ready = await reference_engine.start()
            url, model = ready.url, ready.model
            key = BaselineKey(CANARY, f"{ready.model}:{ready.weights_bytes}")
        return await _measure_engine(
            plan,
            EngineClient(url, model=model, endpoint=plan.endpoint, key=plan.key),
            key,
            EngineCounters(modules, url),
            collectors,
            on_progress,
        )
    finally:
        if reference_engine is not None:
            await reference_engine.close()


async def _measure_engine(
    plan: BenchPlan,
    engine: EngineClient,
    key: BaselineKey,
    counters: EngineCounters,
    collectors: Sequence[Collector],
    on_progress: OnProgress,
) -> BenchResult:
    try:
        await engine.connect(plan.concurrency, plan.timeout)
        for _ in range(max(plan.warm_up, 1)):  # the first one also finds out which fields the engine accepts
            await engine.complete(plan.request)
        counters.measure_speed()
        result = BenchResult(engine, key, LoadRun(plan.requests), before := heat.read_heat(collectors), before)

        async def on_request(run: LoadRun) -> None:
            result.run = run
            # Only between requests: with several at once it would distort the times of the others.
            if plan.concurrency == 1 and (speed := counters.measure_speed()) is not None:
                result.engine_speeds.append(speed)
            on_progress(run)

        result.run = await run_load(
            engine, plan.request, requests=plan.requests, concurrency=plan.concurrency, on_request=on_request
        )
        result.after = heat.read_heat(collectors)
        return result
    finally:
        await engine.close()


def run(
    plan: BenchPlan, modules: Mapping[str, ModuleType], collectors: Sequence[Collector], on_progress: OnProgress
) -> BenchResult:
    """Runs `measure` in an event loop of its own. Raises EngineError or KeyboardInterrupt."""
    return asyncio.run(measure(plan, modules, collectors, on_progress))
