"""What the node says about itself: metrics and log lines.

Telemetry observes; nothing here may change what the node does, and nothing secret may pass through it.
"""
