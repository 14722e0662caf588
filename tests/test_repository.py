"""What surrounds the code: the lock file, the Makefile, the links in the documents.

A fresh clone has nothing else to go by, so each of these is checked by looking at the files, without any network.
"""

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent


def test_the_lock_names_public_sources_only() -> None:
    """A mirror or a local folder in the lock would make it work on one machine and nowhere else."""
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    addresses = [urlsplit(url) for url in re.findall(r'"([a-z]+://[^"]*)"', text)]
    assert addresses
    private = [a.geturl() for a in addresses if a.scheme != "https" or a.port or not _is_public(a.hostname or "")]
    assert not private, f"lock again with uv's own default index: {private[:3]}"
    packages = tomllib.loads(text)["package"]
    assert {kind for package in packages for kind in package["source"]} <= {"registry", "editable"}


def _is_public(host: str) -> bool:
    """A name under a public top-level domain: no address, no bare or local name."""
    labels = host.split(".")
    return len(labels) > 1 and labels[-1] in {"com", "io", "net", "org"}


def test_every_package_in_the_lock_carries_its_hashes() -> None:
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    files = [file for package in packages for file in [*package.get("wheels", []), package.get("sdist", {"hash": "-"})]]
    assert len(files) > len(packages)
    assert not [file for file in files if "hash" not in file]


def test_the_consensus_library_is_pinned() -> None:
    """The code relies on private names of one release; another one must never be installed by itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "pysyncobj==0.3.17" in project["dependencies"]


def test_make_explains_every_target() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\.PHONY: (\S+)", text, re.MULTILINE))
    explained = set(re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE))
    assert targets
    assert targets == explained, "give each target a ## sentence and a .PHONY line; `make help` shows the sentence"


def test_ci_runs_the_targets_that_people_run() -> None:
    """CI with commands of its own would drift away from what can be tried at a desk."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    called = re.findall(r"^step make (\S+)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"check", "test", "test-system"} <= set(called)
    assert all(f"\n{target}:" in makefile for target in called)


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
            if not urlsplit(target).scheme and not (document.parent / target).exists():
                broken.append(f"{document.relative_to(ROOT)}: {target}")
    assert not broken, "correct the link, or write the page it promises:\n  " + "\n  ".join(broken)
