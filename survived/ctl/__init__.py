"""survivectl: one file per group of verbs, imported only when its verb is called."""
