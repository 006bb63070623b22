"""The safety marks, in one place: strictly above the upper one a node is out; it returns at the lower
one."""

from __future__ import annotations

from orion_streams.model.events import NodeSampled
from orion_streams.model.policy import Policy
from orion_streams.model.state import Node
from orion_streams.model.vocabulary import Mark


def is_hot(temp_mc: int | None, policy: Policy) -> bool:
    """Whether a temperature is strictly above `temp_max_mc`."""
    return temp_mc is not None and temp_mc > policy.temp_max_mc


def stuck_limit_ms(temp_mc: int, policy: Policy) -> int:
    """Return how long a sensor may show the same temperature while the processor works: one that knows
    whole degrees only, longer."""
    return policy.stuck_whole_ms if temp_mc % 1000 == 0 else policy.stuck_ms


def is_calm(node: Node, sample: NodeSampled, policy: Policy) -> bool:
    """Whether a sample speaks for the node's return: at or below the lower mark of each that the node
    passed, not above the upper mark of the other. No reading is calm only where no sensor is."""
    limit_mc = policy.temp_return_mc if Mark.HOT in node.backed_off else policy.temp_max_mc
    permille = policy.ram_return_permille if Mark.RAM in node.backed_off else policy.ram_max_permille
    cool = not node.rules.temperature_sensor if sample.temp_mc is None else sample.temp_mc <= limit_mc
    return cool and not is_fuller(sample, permille)


def is_fuller(machine: Node | NodeSampled, permille: int) -> bool:
    """Whether used memory is strictly above a mark, in thousandths of all."""
    return machine.ram_used_mb * 1000 > permille * machine.ram_total_mb


def ram_permille(machine: Node | NodeSampled) -> int:
    """Return used memory in thousandths of all, rounded up, so that 900.1 never reads as 900."""
    total_mb = machine.ram_total_mb
    return -(-machine.ram_used_mb * 1000 // total_mb) if total_mb else 0
