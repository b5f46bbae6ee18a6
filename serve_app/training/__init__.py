"""Trains the demo model that is served where no other is named."""
