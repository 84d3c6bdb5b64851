"""The Hub: files as one commit, and cards in which a person's words survive."""
