"""Everything of SWOOSH that touches the world: clock, disk, network, Raft, HTTP.

`swoosh` decides, `cluster` acts. Nothing in here may judge a proposal; nothing in `swoosh` may open a file.
Each kind of world has one door (time in `clock`, randomness in `entropy`, RocksDB in `storage.kv`, PySyncObj in
`raft`), so that a whole node runs unchanged in the simulator behind doors of its own.
"""
