"""Trees of one structure: a model's parameters, and what is known of each of them.

All but the first are nested dicts, by the names of modules, whose leaves are what the alias says.
"""

from __future__ import annotations

from typing import Any

# Anything that `jax.tree` knows.
Tree = Any
# Arrays.
Parameters = dict[str, Any]
# PartitionSpec over logical axes.
Axes = dict[str, Any]
# ShapeDtypeStruct, some with a sharding.
Shapes = dict[str, Any]
# NamedSharding.
Shardings = dict[str, Any]
# Booleans: whether the parameter belongs to some part of all.
Flags = dict[str, Any]
# Numbers, or arrays of them that broadcast against the parameter.
Numbers = dict[str, Any]
