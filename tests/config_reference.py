"""docs/CONFIGURATION.md, made from the structs of config.py.

python -m tests.config_reference
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import inspect

from orion_streams.config import Config, Limits, NodeConfig, RedisConfig, Retention
from orion_streams.model.alert_rules import AlertRule, AlertTarget
from orion_streams.model.gateway_rules import GatewayRules
from orion_streams.model.policy import ClientRules, ModelRules, Policy
from tests.contract.contract_document import default_of, described, type_name

DOCUMENT = Path(__file__).parents[1] / "docs" / "CONFIGURATION.md"
TABLES: dict[str, type[msgspec.Struct]] = {
    "[redis]": RedisConfig,
    "[clients.NAME]": ClientRules,
    "[nodes.NAME]": NodeConfig,
    '[models."NAME"]': ModelRules,
    "[policy]": Policy,
    "[gateway]": GatewayRules,
    "[limits]": Limits,
    "[retention]": Retention,
    "[[alerts]]": AlertRule,
    "[alerts_to.NAME]": AlertTarget,
}
OPENING = """\
# streams.toml, key by key

<!-- Made from config.py and model/policy.py: do not edit.
     Write it anew with: python -m tests.config_reference -->

What each key is for stands beside it in streams.toml. `orion check FILE` judges a file without starting
anything. The unit is the end of a key's name: `_ms`, `_mb`, `_bytes`, `_mc` (thousandths of a degree),
`_permille`, `_us_per_mb`. Rules that routing reads ([clients], [nodes], [models], [policy]) take effect
when `revision` is raised.
"""


def keys() -> Iterator[tuple[str, inspect.Field]]:
    """Yield each key by its table; those of no table first."""
    for table, struct in {"": Config, **TABLES}.items():
        info = inspect.type_info(struct)
        assert isinstance(info, inspect.StructType)
        for field in info.fields:
            shape, _ = described(field.type)
            if not isinstance(shape, inspect.StructType) and not is_table_of_tables(shape):
                yield table, field


def is_table_of_tables(shape: inspect.Type) -> bool:
    """Whether a key stands for tables of their own."""
    rows = getattr(shape, "value_type", getattr(shape, "item_type", None))
    return isinstance(rows, inspect.StructType)


def document() -> str:
    """Return the whole text."""
    lines, before = [OPENING], None
    for table, field in keys():
        if table != before:
            lines += [f"## `{table}`\n"] if table else []
            lines += ["| key | value | default |", "|---|---|---|"]
            before = table
        default = default_of(field)
        if field.default == () or isinstance(field.default, bool):
            default = f"`{str(field.default).lower()}`" if field.default != () else "none"
        lines.append(f"| `{field.encode_name}` | {type_name(field.type)} | {default} |")
    text = "\n".join(lines).replace("\n## ", "\n\n## ")
    return text + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
