"""Latency on one node of a Ray cluster: figures of several machines cannot be compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from nasattn.cost import Latency
from nasattn.errors import TransientError
from nasattn.evaluate import Meter, Setting
from nasattn.objectives import get_objective

LATENCY = "latency"  # custom resource of the node that measures, where there is one


def remote_meters(
    prepare: Callable[[], None], setting: Setting, objectives: Sequence[str]
) -> Mapping[str, Meter]:
    """Meters, by objective, that measure on the node that has `latency`, else on this one."""
    if LATENCY in ray.cluster_resources():
        where: dict[str, Any] = {"resources": {LATENCY: 1}}
    else:
        node = ray.get_runtime_context().get_node_id()
        where = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
    gauge = ray.remote(_Gauge).options(num_cpus=0, max_restarts=-1, **where)
    actor = gauge.remote(prepare, setting)
    return {name: RemoteMeter(actor, name) for name in objectives}


class _Gauge:
    """Measures latency, one network at a time, on the node where it is placed."""

    def __init__(self, prepare: Callable[[], None], setting: Setting) -> None:
        prepare()
        self.setting = setting

    def measure(self, objective: str, model: nn.Module | None) -> Latency:
        """Of a network; None: of the reference."""
        meter = self.setting.meter(get_objective(objective))
        return meter.measure_reference() if model is None else meter.measure(model)


@dataclass(frozen=True)
class RemoteMeter:
    """A Meter elsewhere: all latencies of a study come from one machine."""

    gauge: Any  # handle of a _Gauge
    objective: str

    travels = True  # to workers, see Setting

    def measure(self, model: nn.Module) -> Latency:
        """Raises what measuring there raises, TransientError where the machine was lost."""
        return self._ask(model)

    def measure_reference(self) -> Latency:
        return self._ask(None)

    def _ask(self, model: nn.Module | None) -> Latency:
        try:
            found: Latency = ray.get(self.gauge.measure.remote(self.objective, model))
        except RayActorError as e:
            raise TransientError("what measures latency was lost") from e
        except RayTaskError as e:
            raise e.cause from None
        return found
