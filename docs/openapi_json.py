"""Make cluster/http/openapi.json, which a node serves, from docs/openapi.yaml, which people edit.

A script of the repository and not of the product: a node never reads YAML it did not need to decide.
"""

import json
from pathlib import Path

import yaml

SOURCE = Path(__file__).with_name("openapi.yaml")
TARGET = Path(__file__).parent.parent / "cluster" / "http" / "openapi.json"


def render() -> str:
    """The JSON text of the YAML source."""
    return json.dumps(yaml.safe_load(SOURCE.read_text(encoding="utf-8")), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
