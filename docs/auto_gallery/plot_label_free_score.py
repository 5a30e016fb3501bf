"""
A score without labels
======================
"""

print("placeholder")
