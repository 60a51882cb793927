"""MTEB: any task that mteb knows, from the hub or from a local mirror, in any few-shot setting."""
