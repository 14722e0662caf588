"""What people and programs touch: the HTTP surface of a node.

Handlers read bytes, hand values to the node and map what comes back; they decide nothing and keep nothing. Statuses
are chosen in `problems`, limits of a request in `request` and `listener`. Every node answers every route.
"""
