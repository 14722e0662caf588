"""Records the golden log: `make golden`. To be done only with a new version of chart or reducer, never to mend a test.

Entries go to entries.jsonl as {index, term, data} with the entry's bytes in hex, what they must come to in wal.jsonl
and expected.json. A project goes around twice under the tide, another is quarantined, paused and closed, commands and
refusals lie between them.
"""

from __future__ import annotations

import json
from pathlib import Path

from chaos.solo import Solo, the_chart
from chaos.steer import drive

HERE = Path(__file__).parent
VERSION = HERE / "v1"


def story() -> Solo:
    """What is recorded."""
    solo = Solo(the_chart())
    solo.project = "atlas"
    drive(solo, lambda r: len(r.execution.history) == 2)
    solo.project = "lyra"
    drive(solo, lambda r: r.boot.phase == "LICENSED", seats=1)
    solo.propose("CONTROL_PAUSED", {"reason": "audit"})
    solo.propose("INGESTION_SOURCES_RESOLVED", {"sources": ["ucxl://a"]})
    solo.propose("SETTING_SET", {"name": "redactions", "value": ["justification"]})
    solo.propose("CONTROL_RESUMED", {"reason": "audit done"}, evidence=["ucxl://audit"])
    findings = [{"rule": "secret", "severity": "quarantine", "location": "inputs.brief"}]
    solo.propose("POLICY_BREACHED", {"rationale": "a key", "findings": findings})
    solo.apply()
    solo.propose("PROJECT_CLOSED", {"reason": "enough"}, key="goal:1:close:1")
    solo.propose("PROJECT_CLOSED", {"reason": "enough"}, key="goal:1:close:1")
    solo.feed(solo.machine.position.index + 1, 1, b"bytes of nobody")
    return solo


def main() -> None:
    """Write the recording anew."""
    solo = story()
    VERSION.mkdir(exist_ok=True)
    lines = [json.dumps({"index": index, "term": term, "data": data.hex()}) for index, term, data in solo.log]
    (VERSION / "entries.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (VERSION / "wal.jsonl").write_bytes(exported(solo))
    (VERSION / "chart.yaml").write_text(Path("statechart.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    expected = {
        "chart_hash": solo.chart.hash,
        "cluster_hash": solo.machine.cluster_hash,
        "heads": {name: solo.head(name) for name in solo.machine.project_ids()},
    }
    (VERSION / "expected.json").write_text(json.dumps(expected, indent=2) + "\n", encoding="utf-8")


def exported(solo: Solo) -> bytes:
    """Every WAL record: projects sorted, each in its order, one canonical line per record."""
    records = solo.source.records
    return b"".join(data + b"\n" for name in sorted(records) for data in records[name])


if __name__ == "__main__":
    main()
