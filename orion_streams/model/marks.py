"""What speaks against a node, in one place: the safety marks (strictly above the upper one it is out; it
returns at the lower one), silence, and a temperature that is not known."""

from __future__ import annotations

from orion_streams.model.events import NodeSampled
from orion_streams.model.policy import Policy
from orion_streams.model.state import Grid, Node
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


def is_past(node: Node, mark: Mark, policy: Policy) -> bool:
    """Whether the node is above a mark, or backed off for it and not back yet."""
    if mark in node.backed_off:
        return True
    return is_hot(node.temp_mc, policy) if mark == Mark.HOT else is_fuller(node, policy.ram_max_permille)


def has_no_temperature(node: Node) -> bool:
    """Whether a node that should have a sensor gives no reading."""
    return node.temp_mc is None and node.rules.temperature_sensor


def is_stuck(node: Node, policy: Policy) -> bool:
    """Whether the node's temperature has stood still for too long while its processor worked."""
    return node.temp_mc is not None and node.still_ms >= stuck_limit_ms(node.temp_mc, policy)


def is_heard(grid: Grid, node: Node) -> bool:
    """Whether the node's last health entry is at most `stale_ms` old, and was no goodbye."""
    return not node.left and not is_silent(grid, node)


def is_silent(grid: Grid, node: Node) -> bool:
    """Whether the node has said nothing for more than `stale_ms`."""
    return node.heard_ms is None or grid.at_ms - node.heard_ms > grid.policy.stale_ms
