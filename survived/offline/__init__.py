"""Bundles for machines without network: packed where there is one, verified and installed where there is none."""
