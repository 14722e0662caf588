"""Stand-ins: small honest servers that speak as an outside system does, for tests, demonstrations and first steps."""
