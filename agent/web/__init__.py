"""The agent's face to browsers and scrapers: from memory, never from hardware."""
