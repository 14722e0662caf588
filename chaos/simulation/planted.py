"""A pytest plugin (`-p chaos.simulation.planted`): runs a directed test with the mutant that SWOOSH_PLANTED names."""

from chaos.simulation.mutants import plant_for_tests

plant_for_tests()
