"""Stand-ins: small honest servers in place of outside systems, to try a cluster without them. No node imports one."""
