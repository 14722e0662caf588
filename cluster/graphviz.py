"""Graphviz, the one foreign program that is ever run: DOT text in, SVG text out.

Only pictures need it. Nothing that a node does depends on its being installed.
"""

from __future__ import annotations

import subprocess

DRAW_SECONDS = 60.0


class NoGraphviz(Exception):
    """``dot`` is missing or did not draw. The text says what to do."""


def svg(dot: str) -> str:
    """DOT text as SVG.

    Raises:
        NoGraphviz: no ``dot`` on the PATH, or it did not take the text.
    """
    try:
        done = subprocess.run(
            ["dot", "-Tsvg"], input=dot.encode(), capture_output=True, timeout=DRAW_SECONDS, check=True
        )
    except FileNotFoundError:
        raise NoGraphviz(
            "SVG needs Graphviz (Debian: apt install graphviz); without it, take --format mermaid or --format dot"
        ) from None
    except subprocess.CalledProcessError as error:
        raise NoGraphviz(f"dot refused the drawing: {error.stderr.decode(errors='replace').strip()}") from None
    except subprocess.TimeoutExpired:
        raise NoGraphviz(f"dot took longer than {DRAW_SECONDS:g} s") from None
    return done.stdout.decode()
