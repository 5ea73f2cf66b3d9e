"""What developers use: a receiver, listen, trigger, test sends, and snippets that verify signatures."""
