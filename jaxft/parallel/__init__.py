"""Devices, meshes and the sharding of arrays over them."""
