"""Every bound in one table.

A bound that a reducer verdict depends on is part of the machine's semantics: changing one is a new chart version, as
replicas of different builds must agree. Numbers an operator may tune at run time are settings (settings.py), not
limits.
"""

from __future__ import annotations

# Canonical domain (RFC 8785 without floats).
INTEGER_MAX = 2**53 - 1
INTEGER_DIGITS_MAX = 17  # digits and sign of -(2^53 - 1), with one to spare
DEPTH_MAX = 32
MEMBERS_MAX = 1_000

# Requests, bytes.
BODY_BYTES_MAX = 256 * 1024
BATCH_BODY_BYTES_MAX = 4 * 1024 * 1024

# Entries of the replicated log.
ENTRY_PROPOSALS_MAX = 512
ENTRY_BYTES_MAX = 480 * 1024  # below the 512 KiB PySyncObj may carry in one piece, envelope included

# From one checkpoint to the next, in log entries. Not a bound of the reducer, but equal on all nodes all the same.
CHECKPOINT_EVERY = 1_000

# Values.
IDEM_KEY_CHARS_MAX = 200
PROJECT_ID_CHARS_MAX = 64
WINDOW_ID_CHARS_MAX = 128
SIGNER_CHARS_MAX = 200
NAME_CHARS_MAX = 128
TEXT_CHARS_MAX = 4_096
BRIEF_CHARS_MAX = 65_536
ADDRESS_CHARS_MAX = 512
EVIDENCE_MAX = 64
COUNT_MAX = 2**31 - 1  # beats, units, elections: added to a time or a beat index they stay within INTEGER_MAX
DURATION_MS_MAX = 366 * 24 * 3600 * 1000
HLC_COUNTER_MAX = 2**31 - 1
HLC_MS_MAX = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z, the last instant the text form can write

# Collections of a project.
SOURCES_MAX = 256
VERSIONS_KEPT = 32
VALIDATIONS_MAX = 128
ROLES_MAX = 64
ELECTORS_MAX = 64
TOOLS_MAX = 64
ASSETS_MAX = 1_000
TASKS_MAX = 10_000
FINDINGS_MAX = 64
POLICY_RULES_MAX = 256
REJECTIONS_KEPT = 16
SUBMISSIONS_KEPT = 64
HISTORY_KEPT = 64

# The registry.
IDENTITY_ROLES_MAX = 32
IDENTITY_PROJECTS_MAX = 256
IDENTITIES_MAX = 100_000
HORIZONS_MAX = 10_000
AGENT_CAPABILITIES_MAX = 64
AGENT_ADDRESSES_MAX = 16
