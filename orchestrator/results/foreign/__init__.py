"""Other tools' result files as rows of our tables: llama-bench's own, and any table with a mapping."""
