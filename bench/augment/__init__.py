"""Augmentation policies: batched on the device, one draw per image."""
