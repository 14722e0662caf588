"""Whole nodes in one process, on virtual time, from a seed: the cluster as it is, and nothing of the world it runs in.

Consensus core, journal, guard, driver, reducer, storage, steward, admission, forwarding, the HTTP applications and
the client library are the real ones. Clock, disk, network and chance are not, so a run of a minute takes a second,
and the same plan gives the same run, to the last message.
"""
