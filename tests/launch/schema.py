"""Validates JSON against the few words of JSON Schema that tests/launch/jobset_schema.json uses."""

import json
import pathlib
import re

KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
JOBSET = json.loads((pathlib.Path(__file__).parent / "jobset_schema.json").read_text())


def errors(value, schema=JOBSET, path="") -> list[str]:
    """What is wrong with a value; a field that the schema does not have is wrong too."""
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{path}: {value!r} is none of {schema['enum']}"]
    kind = KINDS[schema["type"]]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return [f"{path}: {value!r} is no {schema['type']}"]
    found = []
    if kind is str and not re.search(schema.get("pattern", ""), value):
        found.append(f"{path}: {value!r} does not fit {schema['pattern']}")
    if kind is list:
        if not 0 <= len(value) <= schema.get("most", 10**6):
            found.append(f"{path}: {len(value)} items")
        for i, item in enumerate(value):
            found += errors(item, schema["items"], f"{path}[{i}]")
    if kind is dict:
        found += [f"{path}: {name} is missing" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            inner = schema.get("values") or schema.get("properties", {}).get(name)
            found += [f"{path}.{name}: no such field"] if inner is None else errors(item, inner, f"{path}.{name}")
    return found
