"""Consensus: PySyncObj's election and commit rules inside our own journal, transport, guard and driver.

PySyncObj 0.3.17 keeps the roles, the terms, the vote rule and the commit rule. Shipped as it is, it acknowledges
entries it later forgets, so everything around those rules is ours:

* `seams`      the library's version and private names, checked at import; its module-level plug points
* `journal`    log, term and vote: one synced batch, then the witness
* `replica`    the SyncObj subclass: applies, and replicates one append at a time per peer
* `guard`      every Raft message on its way in or out; pre-vote
* `stall`      what waits while a sync takes long
* `skew`       how far the members' wall clocks disagree
* `readindex`  linearizable reads without writing to the log
* `driver`     `Raft`, what the node sees: ticks, proposals, roles, hand-over
* `wire`, `transport`   the peer protocol and its mutual-TLS streams
"""
