"""What a node keeps: one RocksDB, its in-memory twin, and the witness beside it."""
