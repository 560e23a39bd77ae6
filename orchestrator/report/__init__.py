"""Comparisons as text: terminal, Markdown, CSV. PURE"""
