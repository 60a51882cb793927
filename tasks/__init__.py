"""The seam with Prefect: one Prefect task per stage, and every rule about caching and retrying them."""
