"""Spiking networks in the integer arithmetic of Loihi."""
