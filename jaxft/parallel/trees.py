"""Trees of one structure: a model's parameters, and what is known of each of them."""

from __future__ import annotations

from typing import Any

# Nested dicts with a leaf for each parameter:
# its array;
Parameters = dict[str, Any]
# a PartitionSpec over its logical axes;
Axes = dict[str, Any]
# its shape and dtype, a ShapeDtypeStruct;
Shapes = dict[str, Any]
# its NamedSharding;
Shardings = dict[str, Any]
# whether it belongs to some part of all, a bool.
Flags = dict[str, Any]
