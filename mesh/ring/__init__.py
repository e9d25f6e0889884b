"""Who owns a key, and which node serves which role."""
