"""Prompts: templates and few-shot examples in folders, the pool of reflection instructions, and who renders them."""
