"""Providers: outside systems seen as signed facts. They act on the leader only and never block a request."""
