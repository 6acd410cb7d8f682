"""Reads and compares mathematical answers; see docs/grading.md."""
