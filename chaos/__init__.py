"""What tries to break SWOOSH, and what measures it: workloads, faults, histories, checkers, benchmarks, the demo.

Nothing in swoosh/ or cluster/ may import from here: the product never knows that it is being tested.
"""
