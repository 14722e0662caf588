"""``python -m cluster`` is ``swoosh``."""

from cluster.cli import main

if __name__ == "__main__":
    main(prog_name="swoosh")
