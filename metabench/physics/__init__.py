"""Simulators behind the families: the only place, with the family files, where they are imported."""
