"""What is observed about a request. Knows no Ray."""
