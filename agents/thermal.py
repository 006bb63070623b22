"""The processor's temperature, from the thermal zones of Linux: the hottest of its zones, or nothing.

The kernel gives thousandths of a degree (Documentation/ABI/testing/sysfs-class-thermal). A number that no
processor at work can have, as of a driver that gives whole degrees, is not believed; and a processor of
which one zone cannot be believed has no temperature, however cool its others are.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from msgspec import Struct

log = logging.getLogger("orion.agent")

THERMAL = Path("/sys/class/thermal")
PROCESSOR = re.compile(r"cpu|core|soc|pkg")
OTHER_CHIP = re.compile(r"gpu|npu|wifi|wlan|modem|pmic|batt|ddr|nvme")
LAST_RESORT = "acpitz"
POSSIBLE_MC = (13_001, 130_000)
"""What a processor at work can have, in thousandths of a degree Celsius. Below stand all that it can have
in hundredths of one, or in tenths of a kelvin."""


class Zone(Struct, frozen=True):
    """A thermal zone: its type, and the file with its temperature."""

    kind: str
    file: Path

    def __str__(self) -> str:
        return f"{self.kind} ({self.file.parent.name})"


class Reading(Struct, frozen=True):
    """A look at all zones of the processor: the hottest, in thousandths of a degree, or None; which zones
    they are, or why there is no temperature."""

    temp_mc: int | None
    what: str


def processor_zones(thermal: Path = THERMAL) -> tuple[Zone, ...]:
    """Return the zones of the processor, by their types; the board's own where no other is known."""
    found = []
    for folder in sorted(thermal.glob("thermal_zone*")):
        try:
            found.append(Zone((folder / "type").read_text().strip(), folder / "temp"))
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read: %s", folder, error)
    own = tuple(each for each in found if is_processor(each.kind))
    return own or tuple(each for each in found if each.kind == LAST_RESORT)


def is_processor(kind: str) -> bool:
    """Whether zones of this type measure the processor, or the chip that it is a part of."""
    return bool(PROCESSOR.search(kind.lower())) and not OTHER_CHIP.search(kind.lower())


def read(zones: tuple[Zone, ...]) -> Reading:
    """Read the hottest zone. One that cannot be read is passed over while another can."""
    found: list[int] = []
    silent = []
    for zone in zones:
        try:
            text = zone.file.read_text(errors="replace").strip()
        except OSError as error:
            silent.append(f"{zone} cannot be read: {error}")
            continue
        number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,12}", text) else None
        if number is None or not POSSIBLE_MC[0] <= number <= POSSIBLE_MC[1]:
            return Reading(None, f"{zone} gives {doubt(number)}")
        found.append(number)
    if not found:
        return Reading(None, "; ".join(silent) or "no thermal zone of a processor")
    names = ", ".join(map(str, zones))
    return Reading(max(found), f"the hottest of {names}" if len(zones) > 1 else names)


UNITS = {1000: "whole", 100: "tenths of", 10: "hundredths of"}


def doubt(number: int | None) -> str:
    """Say why a number is not believed, in words that stay the same while it goes on."""
    for unit, name in UNITS.items():
        if number is not None and POSSIBLE_MC[0] <= number * unit <= POSSIBLE_MC[1]:
            cold = ", or it is colder than 13 °C" if unit == 10 else ""
            return f"{name} degrees, it seems (thousandths are expected){cold}"
    return "what is no temperature of a processor at work"
