"""SHHH: what may not be said here. Rules, the policy that judges them, and the scanner that finds and removes.

Values in, findings out: nothing in here reads a file, keeps what it has seen, or hands on a value that it found. The
rules are SWOOSH's own (docs/reference/policy.md); findings carry the hash and the place of a value, never the value.
"""
