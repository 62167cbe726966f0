"""`python -m bartizan …`: what an operator or a developer asks for at a terminal."""
