"""Pages on runs: reading their folders, what follows from it, templates that show it."""
