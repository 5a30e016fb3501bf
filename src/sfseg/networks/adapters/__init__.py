"""What is built into or around a network that has been trained."""
