"""Reading mathematical answers and comparing them; see docs/grading.md."""
