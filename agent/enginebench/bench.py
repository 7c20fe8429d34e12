"""A whole bench: an engine found or started, warmed up, run, and what heat did meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType

from agent.config.schema import CANARY
from agent.enginebench import heat
from agent.enginebench.client import Endpoint, Engine, Order
from agent.enginebench.counters import Counters
from agent.enginebench.heat import Heat
from agent.enginebench.load import Run, stress
from agent.enginebench.reference_engine import OwnEngine
from agent.enginebench.summary import percentiles, speeds
from agent.engines.baseline import Key
from agent.sampling.plugins import Collector

Progress = Callable[[Run], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for; without `url` the reference engine is started, with `own` as its arguments."""

    url: str | None
    own: Sequence[str]
    name: str
    model: str
    endpoint: Endpoint | None
    key: str
    order: Order
    requests: int
    concurrency: int
    warm_up: int
    patience: float


@dataclass(slots=True)
class Result:
    """What came of it; `told` are the speeds that the engine says it decoded with, request by request."""

    engine: Engine
    key: Key
    run: Run
    before: Heat
    after: Heat
    told: list[float] = field(default_factory=list)

    @property
    def baseline(self) -> float | None:
        """What the engine can do, in decode tokens per decode second: the 90th percentile, as baselines are."""
        found = percentiles(self.told or speeds(self.run))
        return None if found is None else found.p90


async def bench(
    plan: Plan, modules: Mapping[str, ModuleType], collectors: Sequence[Collector], progress: Progress
) -> Result:
    """Raises EngineError where not even one request is answered."""
    own: OwnEngine | None = None
    try:
        url, model, key = plan.url, plan.model, Key(plan.name)
        if url is None:
            own = OwnEngine(plan.own)
            ready = await own.start()
            url, model = ready.url, ready.model
            key = Key(CANARY, f"{ready.model}:{ready.weights_bytes}")
        return await _asked(
            plan,
            Engine(url, model=model, endpoint=plan.endpoint, key=plan.key),
            key,
            Counters(modules, url),
            collectors,
            progress,
        )
    finally:
        if own is not None:
            await own.close()


async def _asked(
    plan: Plan, engine: Engine, key: Key, counters: Counters, collectors: Sequence[Collector], progress: Progress
) -> Result:
    try:
        await engine.open(plan.concurrency, plan.patience)
        for _ in range(max(plan.warm_up, 1)):  # the first one also finds out what the engine takes
            await engine.ask(plan.order)
        counters.speed()
        result = Result(engine, key, Run(plan.requests), before := heat.read(collectors), before)

        async def heard(run: Run) -> None:
            result.run = run
            # Only between requests: with several at once this would hold up the clock of the others.
            if plan.concurrency == 1 and (told := counters.speed()) is not None:
                result.told.append(told)
            progress(run)

        result.run = await stress(engine, plan.order, requests=plan.requests, concurrency=plan.concurrency, heard=heard)
        result.after = heat.read(collectors)
        return result
    finally:
        await engine.close()


def run(plan: Plan, modules: Mapping[str, ModuleType], collectors: Sequence[Collector], progress: Progress) -> Result:
    """`bench`, from where there is no event loop. Raises EngineError or KeyboardInterrupt."""
    return asyncio.run(bench(plan, modules, collectors, progress))
