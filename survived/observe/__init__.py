"""Observe: reads the machine, changes nothing."""
