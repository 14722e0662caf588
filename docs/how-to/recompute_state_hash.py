"""Reads the JSON of `GET /state` from standard input and prints the state hash it must have. Standard library only."""

import hashlib
import json
import sys


def typed(kind, value):
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"swoosh/{kind}/v1\n{text}".encode()).hexdigest()


def root(entries, depth=0):
    if len(entries) <= 16:
        return typed("leaf", sorted(typed("entry", [key, value]) for key, value in entries.items()))
    slot = {key: hashlib.sha256(key.encode()).hexdigest()[depth] for key in entries}
    parts = ({key: entries[key] for key in entries if slot[key] == digit} for digit in "0123456789abcdef")
    return typed("branch", [root(part, depth + 1) for part in parts])


answer = json.load(sys.stdin)
regions = {name: answer["projection"][name] for name in answer["region_hashes"]}
for path in answer["collections"]:
    region, field = path.split(".")
    regions[region] = {**regions[region], field: root(regions[region][field])}
print("sha256-" + typed("state", {name: typed("region", value) for name, value in regions.items()}))
