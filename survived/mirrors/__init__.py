"""Mirrors of package indexes and hubs: what is known of them, how they do now, and the settings that lead a tool to one."""
